"""Checks plain data against frozen dataclasses, and tells in one sentence what is wrong with it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from emoguard import nearest
from emoguard.errors import EmoGuardError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

DEEPEST = 16
"""Levels of nesting; a policy needs six."""

LARGEST = 10_000
"""Values in all; keeps data that refers to itself, or to one part many times, from growing."""

VERSION = 1

YAML_WORDS = {
    "an array": "a list",
    "a array": "a list",
    "an object": "a mapping",
    "a string": "text",
}
"""What pydantic calls things, and what somebody who writes YAML does."""


def parse(cls: type[T], data: Any, source: str) -> T:
    """Return the `cls` that `data` describes; `source` names it in errors.

    Raises:
        EmoGuardError: naming the key, what was wanted and what came.

    """
    from pydantic import ValidationError  # noqa: PLC0415  (only a policy needs it)

    if not isinstance(data, dict):
        raise EmoGuardError(
            f"{source}: wanted a mapping of keys to values, got {_told(data)}: "
            f"write keys such as {_known(cls)[0]}: …"
        )
    _check_version(data, source)
    try:
        _check_plain(data)
        # As JSON, because only there do pydantic's strict types take a mapping for a dataclass.
        checked: T = _adapter(cast("Any", cls)).validate_json(json.dumps(data))
    except EmoGuardError as error:
        raise EmoGuardError(f"{source}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise EmoGuardError(f"{source}: {_sentence(first, hints=cls)}") from error
    return checked


def value(wanted: Any, given: Any, key: str) -> Any:
    """Return one value as the annotation `wanted` has it; `key` names it in errors.

    Raises:
        EmoGuardError: a value of another type.

    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    _check_plain(given, (key,))
    try:
        return TypeAdapter(wanted).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise EmoGuardError(_sentence(error.errors()[0], (key,))) from error


def json_schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of what `parse` takes for `cls`."""
    return _adapter(cast("Any", cls)).json_schema()


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Return what checks a `cls`; kept, because making it takes ten times as long as using it."""
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(cls)


def _check_version(data: dict[Any, Any], source: str) -> None:
    found = data.get("version", VERSION)
    if type(found) is not int or found != VERSION:
        raise EmoGuardError(
            f"{source}: version: this EmoGuard reads version {VERSION}, got {_told(found)}: "
            f"write version: {VERSION}, or use the EmoGuard that the file was written for"
        )


def _check_plain(data: Any, at: tuple[str, ...] = ()) -> None:
    """Refuse what JSON cannot say: other keys than text, NaN, dates, loops, lone surrogates."""
    seen = 0
    waiting: list[tuple[tuple[str, ...], Any]] = [(at, data)]
    while waiting:
        path, value = waiting.pop()
        seen += 1
        where = _dotted(path)
        if len(path) > DEEPEST or seen > LARGEST:
            raise EmoGuardError(
                f"{where}: at most {LARGEST:,} values nested {DEEPEST} deep are wanted: shorten it"
            )
        if isinstance(value, dict):
            waiting += [((*path, _key(path, key)), each) for key, each in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*path, str(n)), each) for n, each in enumerate(value)]
        elif not _is_plain(value):
            raise EmoGuardError(
                f"{where}: wanted text, a finite number, true or false, got {_told(value)}"
            )


def _key(path: Sequence[str], key: Any) -> str:
    if not isinstance(key, str) or not _is_plain(key):
        raise EmoGuardError(f"{_dotted((*path, _text(key)))}: not a key: keys are text")
    return key


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode() == value
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**63)


def _sentence(
    mistake: ErrorDetails, at: tuple[str, ...] = (), hints: type[Any] | None = None
) -> str:
    """Say one of pydantic's findings with its key, and the nearest key that `hints` has."""
    path = at + tuple(str(part) for part in mistake["loc"])
    if mistake["type"] == "unexpected_keyword_argument":
        return f"{_dotted(path)}: unknown{_hint(hints, path) if hints else ''}"
    wanted = mistake["msg"].removeprefix("Input should be ")
    wanted = wanted.replace("valid integer", "whole number")
    wanted = wanted.replace("valid ", "")
    wanted = YAML_WORDS.get(wanted, wanted)
    if mistake["type"].startswith(("greater", "less")):
        wanted = f"a number {wanted}"
    return f"{_dotted(path)}: wanted {wanted}, got {_told(mistake['input'])}"


def _hint(cls: type[Any], path: Sequence[str]) -> str:
    """Return where else this very key stands, else the near one at this place, else all of it."""
    name = path[-1]
    elsewhere = [key for key in _paths(cls) if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    return f"; {nearest.hint(name, _known(_section(cls, path[:-1])), 'keys')}"


def _section(cls: type[Any], path: Sequence[str]) -> type[Any]:
    for name in path:
        cls = get_type_hints(cls)[name]
    return cls


def _known(cls: type[Any]) -> list[str]:
    return [each.name for each in fields(cls)]


def _paths(cls: type[Any]) -> Iterator[str]:
    """Yield every key that `cls` takes, with the sections it stands in."""
    for name, hint in get_type_hints(cls).items():
        if name in _known(cls):
            yield name
            if isinstance(hint, type) and is_dataclass(hint):
                yield from (f"{name}.{inner}" for inner in _paths(hint))


def _dotted(path: Sequence[str]) -> str:
    return ".".join(f"{part:.60}" for part in path)


def _told(value: Any) -> str:
    """Name a value in the words of who writes YAML."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return json.dumps(value)[:60] if _is_plain(value) else _text(value)


def _text(value: Any) -> str:
    try:
        return f"{value!s:.60}"
    except ValueError:  # a number of more digits than Python writes out
        return f"an endless {type(value).__name__}"
