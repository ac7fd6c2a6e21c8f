"""Parses untrusted JSON: bounded in bytes and depth, with one kind of error."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from emoguard.errors import EmoGuardError

LARGEST = 8 * 2**20
"""Bytes; parsing the most expensive text takes 260 MiB, and 350 MiB with a bound of 32 MiB."""

MOST_VALUES = 2_000_000
"""Values take up to 100 bytes each, however short their text."""

DEEPEST = 64
"""Levels of nesting. Few enough that code which recurses over the data never runs out of stack."""

LONGEST_NUMBER = 300
"""Characters; the longest that Python writes for a float has 24, an integer of 300 is one."""

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(
    data: bytes | str, *, largest: int = LARGEST, deepest: int = DEEPEST, surrogates: bool = False
) -> Any:
    """Return the value of a JSON text; bytes are UTF-8, with or without a byte order mark.

    Every number in it is finite as a float, so that `float(value)` never overflows; `NaN` and
    `Infinity` are refused. Lone surrogates, which no file, log or terminal can take, are refused
    unless `surrogates`.

    Raises:
        EmoGuardError: for everything else; nothing else is raised. The sentence does not name the
            source of `data`: that is the caller's part.

    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")  # half a pair is refused below
    if len(data) > largest:
        raise EmoGuardError(f"wanted at most {largest:,} bytes of JSON, got {len(data):,}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EmoGuardError(f"wanted JSON in UTF-8, got other bytes at {error.start}") from error
    # Marks inside strings are counted, too: no text that people wrote has so many.
    containers = text.count("[") + text.count("{")
    if containers + text.count(",") > MOST_VALUES:
        raise EmoGuardError(f"wanted at most {MOST_VALUES:,} values in JSON, got more")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep(deepest) from None
    except ValueError as error:
        raise EmoGuardError(f"wanted JSON, got something else: {error}") from error
    if containers > deepest and not _is_flat(value, deepest):
        raise _too_deep(deepest)
    if not surrogates and SURROGATE.search(text):
        _check_encodable(value)
    return value


def _is_flat(value: Any, deepest: int) -> bool:
    """Return whether containers in `value` are nested at most `deepest` levels."""
    level = [value]
    for _ in range(deepest):
        level = [child for each in level for child in _children(each)]
        if not level:
            return True
    return not any(isinstance(each, dict | list) for each in level)


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep(deepest: int) -> EmoGuardError:
    return EmoGuardError(f"wanted JSON nested at most {deepest} levels deep, got more")


def _check_encodable(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise EmoGuardError("wanted text, got half of a surrogate pair") from None


def _integer(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"the number {text[:20]}… has {len(text):,} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text) if len(text) <= LONGEST_NUMBER else math.inf
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is too large or too long")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


_DECODER = json.JSONDecoder(
    parse_float=_finite, parse_int=_integer, parse_constant=_refuse_constant
)
