"""Checks plain data against frozen dataclasses, with one sentence per error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import numpy as np

from emoguard import nearest
from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import (
    LARGEST_INTEGER,
    Mismatch,
    UnknownKey,
    describe,
    fields_of,
    reader,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")

DEEPEST = 16
"""Levels of nesting; a policy needs six."""

LARGEST = 10_000
"""Values in all; bounds data that refers to itself, or to one part many times."""

VERSION = 1

YAML_WORDS = {
    "an array": "a list",
    "a array": "a list",
    "an object": "a mapping",
    "a string": "text",
}
"""Pydantic's names of types, and the words of people who write YAML."""


def parse(cls: type[T], data: Any, source: str) -> T:
    """Return `data` as a `cls`, which it may be already; `source` names it in errors.

    Raises:
        EmoGuardError: the message names the key, the wanted and the actual value.

    """
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise EmoGuardError(
            f"{source}: wanted a mapping of keys to values, got {describe(data)}: "
            f"write keys such as {_known(cls)[0]}: …"
        )
    try:
        _check_version(cls, data)
        _check_plain(data)
        parsed: T = reader(cls)(data)
    except Mismatch as mismatch:
        raise EmoGuardError(f"{source}: {_sentence(cls, mismatch)}") from None
    except EmoGuardError as error:
        raise EmoGuardError(f"{source}: {error}") from error
    return parsed


def check(record: Any) -> None:
    """Check every field of a dataclass instance by its annotation, as `parse` checks data.

    A field that may be written in several ways (a list for a tuple, a mapping for a section) is
    stored in the type of its annotation. For `__post_init__`: frozen records are changed here.

    Raises:
        EmoGuardError: the message names the field, the wanted and the actual value.

    """
    cls: Any = type(record)
    values = vars(record)
    for name, default, read in fields_of(cls):
        value = values[name]
        if value is default:
            continue  # per request, where most fields are plain
        try:
            checked = read(value)
        except Mismatch as mismatch:
            mismatch.path.insert(0, name)
            raise EmoGuardError(f"{cls.__name__}.{_sentence(cls, mismatch)}") from None
        if checked is not value:
            object.__setattr__(record, name, checked)


def option(wanted: Any, value: Any, key: str) -> Any:
    """Return one value in the type `wanted`, the annotation of a sink's option; `key` is its place.

    Pydantic reads it: such an annotation may be anything.

    Raises:
        EmoGuardError: a value of another type.

    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  (only a sink's options)

    _check_plain(value, (key,))
    try:
        return TypeAdapter(wanted).validate_json(json.dumps(value, default=_plain), strict=True)
    except ValidationError as error:
        raise EmoGuardError(_in_yaml_words(error.errors()[0], key)) from error


def json_schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the input of `parse` for `cls`."""
    from pydantic import TypeAdapter  # noqa: PLC0415  (only for the docs)

    return TypeAdapter(cls).json_schema()


def _check_version(cls: type[Any], data: Mapping[Any, Any]) -> None:
    version = data.get("version", VERSION)
    if "version" in _known(cls) and (type(version) is not int or version != VERSION):
        raise EmoGuardError(
            f"version: this EmoGuard reads version {VERSION}, got {describe(version)}: "
            f"write version: {VERSION}, or use the EmoGuard that the file was written for"
        )


def _check_plain(data: Any, at: tuple[str, ...] = ()) -> None:
    """Raise for values JSON cannot express: NaN, dates, loops, lone surrogates, odd keys."""
    seen = 0
    waiting: list[tuple[tuple[str, ...], Any]] = [(at, data)]
    while waiting:
        path, value = waiting.pop()
        seen += 1
        more = len(value) if isinstance(value, Mapping | list | tuple) else 0
        # Items are counted before they are examined: a client may send a million labels.
        if len(path) > DEEPEST or seen + len(waiting) + more > LARGEST:
            raise EmoGuardError(
                f"{_dotted(path) or 'this'}: at most {LARGEST:,} values nested {DEEPEST} deep are "
                "wanted: shorten it"
            )
        if isinstance(value, Mapping):
            waiting += [((*path, _key(path, key)), each) for key, each in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*path, str(n)), each) for n, each in enumerate(value)]
        elif not _is_plain(value):
            raise EmoGuardError(
                f"{_dotted(path)}: wanted text, a finite number, true or false, "
                f"got {describe(value)}"
            )


def _key(path: Sequence[str], key: Any) -> str:
    if not isinstance(key, str) or not _is_plain(key):
        name = describe(key) if type(key) is int else f"{key!s:.60}"
        raise EmoGuardError(f"{_dotted((*path, name))}: not a key: keys are text")
    return key


def _is_plain(value: Any) -> bool:
    """Return whether JSON can express a value; in Python it may also be NumPy's, or a path."""
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode() == value
    if isinstance(value, int | np.integer):
        return abs(int(value)) < LARGEST_INTEGER
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    return value is None or isinstance(value, os.PathLike | np.bool_)


def _plain(value: Any) -> Any:
    """Return the JSON counterpart of a Python value."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return float(value) if isinstance(value, np.floating) else value.item()


def _sentence(cls: type[Any], mismatch: Mismatch) -> str:
    """Describe a mismatch by its key and, for an unknown key, the nearest key of `cls`."""
    hint = _hint(cls, mismatch.path) if isinstance(mismatch, UnknownKey) else ""
    return f"{_dotted(mismatch.path)}: {mismatch}{hint}"


def _in_yaml_words(mistake: ErrorDetails, key: str) -> str:
    """Describe one of pydantic's findings by its key."""
    path = (key, *(str(part) for part in mistake["loc"]))
    wanted = mistake["msg"].removeprefix("Input should be ")
    wanted = wanted.replace("valid integer", "whole number")
    wanted = wanted.replace("valid ", "")
    wanted = YAML_WORDS.get(wanted, wanted)
    if mistake["type"].startswith(("greater", "less")):
        wanted = f"a number {wanted}"
    return f"{_dotted(path)}: wanted {wanted}, got {describe(mistake['input'])}"


def _hint(cls: type[Any], path: Sequence[str]) -> str:
    """Return the other places of a key, else the nearest key at this place, else all of them."""
    # Comparing a name of megabytes takes seconds.
    name = path[-1][:60]
    elsewhere = [key for key in _paths(cls) if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    return f"; {nearest.hint(name, _known(_section(cls, path[:-1])), 'keys')}"


def _section(cls: type[Any], path: Sequence[str]) -> type[Any]:
    for name in path:
        cls = _record_in(get_type_hints(cls).get(name)) or cls  # an index names no field
    return cls


def _record_in(hint: Any) -> Any:
    """Return the dataclass that an annotation names, also as `Section | None`, else None."""
    return next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)


def _known(cls: type[Any]) -> list[str]:
    return [each.name for each in fields(cls)]


def _paths(cls: type[Any]) -> Iterator[str]:
    """Yield every key that `cls` takes, with the sections it stands in."""
    for name, hint in get_type_hints(cls).items():
        if name in _known(cls):
            yield name
            if section := _record_in(hint):
                yield from (f"{name}.{inner}" for inner in _paths(section))


def _dotted(path: Sequence[str]) -> str:
    return ".".join(f"{part:.60}" for part in path)
