"""Reads a small YAML file as plain data, without the parts of YAML that surprise or explode.

It accepts mappings, lists and scalars as YAML 1.2's core schema reads them: `no` is text, `1e-3` is
a number, a date is text. It refuses tags, anchors and aliases, duplicate keys, a number with a
leading 0 (octal to some readers), several documents, deep nesting and files of more than 64 KiB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emoguard import regularfile
from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import describe

LARGEST = 64 * 1024
"""Bytes; the largest file that is read takes PyYAML about half a second."""

DEEPEST = 16

NULL = re.compile(r"(|~|null|Null|NULL)\Z")
BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\Z")
FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?\Z")
ZERO = re.compile(r"[-+]?0[0-9_]+\Z")


def read(path: str | os.PathLike[str]) -> Any:
    """Return the content of a YAML file, None if it is empty.

    Raises:
        EmoGuardError: the message names the file and, for an error inside it, the key or the line.

    """
    try:
        data = regularfile.read(check_path(path), LARGEST)
    except FileNotFoundError as error:
        raise EmoGuardError(f"{path} cannot be read: there is no such file") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise EmoGuardError(f"{path} cannot be read: {why}") from error
    return loads(data, str(path))


def check_path(path: Any) -> Path:
    """Return the argument as a path.

    Raises:
        EmoGuardError: something else came.

    """
    if not isinstance(path, str | os.PathLike):
        raise EmoGuardError(f"wanted the path of a YAML file, got {describe(path)}")
    return Path(path)


def loads(data: bytes, source: str) -> Any:
    """Return the content of YAML in UTF-8; `source` names it in errors."""
    import yaml  # noqa: PLC0415  (only a policy file needs it)

    if len(data) > LARGEST:
        raise EmoGuardError(f"{source}: wanted at most {LARGEST:,} bytes, got more: shorten it")
    try:
        events = yaml.parse(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
        return _Builder(source).document(events)
    except UnicodeDecodeError as error:
        raise EmoGuardError(f"{source}: wanted UTF-8, got other bytes at {error.start}") from error
    except yaml.YAMLError as error:
        raise EmoGuardError(f"{source}: this is no YAML: {' '.join(str(error).split())}") from error


class _Builder:
    """Composes data from PyYAML's events; its stack holds the current place."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._path: list[str] = []

    def document(self, events: Iterator[Any]) -> Any:
        import yaml  # noqa: PLC0415

        data, documents = None, 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "wanted one document, got a second one after ---")
            elif isinstance(event, yaml.NodeEvent):
                data = self._value(event, events)
        return data

    def _value(self, event: Any, events: Iterator[Any]) -> Any:
        import yaml  # noqa: PLC0415

        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise self._error(event, "anchors and aliases (& and *) are not taken: write it out")
        if event.tag is not None:
            raise self._error(event, f"tags are not taken, got {event.tag:.60}: leave it out")
        if len(self._path) >= DEEPEST:
            raise self._error(event, f"nested more than {DEEPEST} deep")
        if isinstance(event, yaml.ScalarEvent):
            self._check_encodable(event)
            return self._scalar(event) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(events)
        return self._mapping(events)

    def _list(self, events: Iterator[Any]) -> list[Any]:
        import yaml  # noqa: PLC0415

        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._under(str(len(items)), event, events))
        return items

    def _mapping(self, events: Iterator[Any]) -> dict[str, Any]:
        import yaml  # noqa: PLC0415

        mapping: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key is text, got a mapping, a list or an alias")
            key = self._value(event, events)
            if not isinstance(key, str):
                raise self._error(event, f"{event.value:.60}: not a key: keys are text")
            if key in mapping:
                raise self._error(event, f"{key:.60}: given twice: keep one")
            mapping[key] = self._under(key, next(events), events)
        return mapping

    def _under(self, name: str, event: Any, events: Iterator[Any]) -> Any:
        self._path.append(name)
        value = self._value(event, events)
        self._path.pop()
        return value

    def _check_encodable(self, event: Any) -> None:
        try:
            event.value.encode()
        except UnicodeEncodeError:
            what = f"half of a surrogate pair in {ascii(event.value)[:60]}: leave it out"
            raise self._error(event, what) from None

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if NULL.match(text):
            return None
        if text in BOOL:
            return BOOL[text]
        if ZERO.match(text):
            raise self._error(
                event, f"{text:.60} is octal to some and decimal to others: drop the 0, or quote it"
            )
        if INT.match(text):
            return int(text)
        return float(text) if FLOAT.match(text) else text

    def _error(self, event: Any, sentence: str) -> EmoGuardError:
        where = ".".join(f"{part:.60}" for part in self._path)
        line = f"line {event.start_mark.line + 1}"
        return EmoGuardError(f"{self._source}: {where and where + ': '}{line}: {sentence}")
