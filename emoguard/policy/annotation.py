"""Reads a value by its type annotation: in policies, plans and requests, from any source.

Values from YAML or JSON and values passed in Python go through the same readers, so that both obey
the same types, words and ranges and are refused in the same sentences.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from emoguard import nearest
from emoguard.policy.interval import Interval

Reader = Callable[[Any], Any]
"""Returns a value in the type of its annotation (a list as a tuple, NumPy's numbers as Python's),
or raises Mismatch."""

LARGEST_INTEGER = 2**63


class Mismatch(Exception):  # noqa: N818  (raised and caught in here and in `schema`)
    """Raised for a value that its annotation does not allow, at `path`, outermost key first."""

    def __init__(self, sentence: str, *path: str) -> None:
        super().__init__(sentence)
        self.path = list(path)


class UnknownKey(Mismatch):
    """Raised for a key that a section does not have; it ends the path."""


class Field(NamedTuple):
    """A field of a dataclass: `default` is that of the field, MISSING where it has none."""

    name: str
    default: Any
    read: Reader


@functools.cache
def fields_of(cls: Any) -> tuple[Field, ...]:
    """Return the fields of a dataclass and their readers."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(Field(each.name, each.default, reader(hints[each.name])) for each in fields(cls))


def reader(hint: Any) -> Reader:
    """Return the reader of an annotation; for an unknown one, a reader that accepts everything."""
    kind = GENERIC.get(get_origin(hint))
    if kind is not None:
        return kind(get_args(hint))
    if isinstance(hint, type) and is_dataclass(hint):
        return functools.partial(_record, hint)
    return SCALARS.get(hint, _anything)


def _anything(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise _wrong("text", value)
    return str.__str__(value)  # of a subclass (an enum, NumPy's) only the text


def _number(value: Any) -> float:
    if type(value) is not float:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise _wrong("a number", value)
        try:
            value = float(value)
        except OverflowError:
            raise _wrong("a finite number", value) from None
    if not math.isfinite(value):
        raise _wrong("a finite number", value)
    return float(value)


def _whole_number(value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _wrong("a whole number", value)
    number = int(value)
    if abs(number) >= LARGEST_INTEGER:
        raise _wrong("a whole number below 2**63", number)
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise _wrong("a boolean", value)
    return bool(value)


SCALARS: dict[Any, Reader] = {
    str: _text,
    float: _number,
    int: _whole_number,
    bool: _boolean,
}


def _annotated(args: Sequence[Any]) -> Reader:
    intervals = [mark for mark in args[1:] if isinstance(mark, Interval)]
    return functools.partial(_within, intervals, reader(args[0]))


def _within(intervals: Sequence[Interval], read: Reader, value: Any) -> Any:
    number = read(value)
    for interval in intervals:
        if number not in interval:
            # As it was written, where a description shows it.
            raise _wrong(f"a number {interval}", value if isinstance(value, int) else number)
    return number


def _literal(args: Sequence[Any]) -> Reader:
    return functools.partial(_one_of, args)


def _one_of(options: Sequence[Any], value: Any) -> Any:
    for option in options:
        same = isinstance(value, type(option)) and not isinstance(value, bool)
        if same and value == option:
            return option  # not the value: it may be an enum's
    *others, last = map(repr, options)
    wanted = f"{', '.join(others)} or {last}" if others else last
    raise Mismatch(f"wanted {wanted}, got {describe(value)}{_question(value, options)}")


def _optional(args: Sequence[Any]) -> Reader:
    others = [each for each in args if each is not NoneType]
    # Our records have no other unions than with None.
    return functools.partial(_none_or, reader(others[0])) if len(others) == 1 else _anything


def _none_or(read: Reader, value: Any) -> Any:
    return None if value is None else read(value)


def _tuple(args: Sequence[Any]) -> Reader:
    return functools.partial(_items, reader(args[0])) if args[1:] == (...,) else _anything


def _items(read: Reader, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong("a list", value)
    return tuple(_under(index, read, each) for index, each in enumerate(value))


def _mapping(args: Sequence[Any]) -> Reader:
    return functools.partial(_entries, *map(reader, args))


def _entries(read_key: Reader, read: Reader, value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong("a mapping", value)
    return {read_key(key): _under(key, read, each) for key, each in value.items()}


GENERIC: dict[Any, Callable[[Sequence[Any]], Reader]] = {
    Annotated: _annotated,
    Literal: _literal,
    Union: _optional,
    UnionType: _optional,
    tuple: _tuple,
    Mapping: _mapping,
    dict: _mapping,
}


def _record(cls: Any, value: Any) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _wrong("a mapping", value)
    known = {field.name: field.read for field in fields_of(cls)}
    for name in value:
        if name not in known:
            raise UnknownKey("unknown", name if isinstance(name, str) else describe(name))
    for name in _required(cls):
        if name not in value:
            raise Mismatch("wanted a value, got none", name)
    return cls(**{name: _under(name, known[name], each) for name, each in value.items()})


@functools.cache
def _required(cls: Any) -> tuple[str, ...]:
    """Return the names of the fields without a default."""
    return tuple(
        each.name
        for each in fields(cls)
        if each.default is MISSING and each.default_factory is MISSING
    )


def _under(key: Any, read: Reader, value: Any) -> Any:
    try:
        return read(value)
    except Mismatch as mismatch:
        mismatch.path.insert(0, str(key))
        raise


def _wrong(wanted: str, value: Any) -> Mismatch:
    return Mismatch(f"wanted {wanted}, got {describe(value)}")


def _question(value: Any, known: Iterable[Any]) -> str:
    """Return a question with the nearest word, "" if none is near."""
    closest = nearest.near(value[:100], map(str, known)) if isinstance(value, str) else None
    return f"; did you mean {closest}?" if closest else ""


def describe(value: Any) -> str:
    """Name a value in the words of YAML, or by its type if YAML has none; at most 60 letters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, str | bool):
        return json.dumps(value)[:60]
    if isinstance(value, int) and abs(value) >= 10**60:
        return "an endless int"  # Python may refuse to write it out
    return f"{value}" if isinstance(value, int | float) else f"{type(value).__name__:.60}"
