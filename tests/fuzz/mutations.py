"""Makes hostile inputs of sound ones: broken where bytes, JSON, lines or a probe file can break."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

Mutation = Callable[[Random, bytes], bytes]

ODD = [
    b"null", b"true", b"-1", b"0", b"-0.0", b"1.5", b"1e308", b"-1e308", b"1e-320", b"NaN",
    b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 25, b"9" * 400, b"9" * 5000,
    b"2147483648", b"9223372036854775808", b"18446744073709551616", b"01", b"1_000", b"0x10",
    b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\ud83d\\ude00"',
    b'"nan"', b'"inf"', b'"1e999"', b'"1"', '"\u2028\x85"'.encode(), b'"\xff"',
    b'"%s"' % (b"x" * 5000), b'"%s"' % (b"9" * 5000), b"[]", b"{}", b"[[]]", b"[null]", b"[0, 0]",
    b"[1, [2]]", b'{"a": 1}', b'{"": {}}', b"[" * 60 + b"]" * 60, b"[" * 70 + b"]" * 70,
    b"[" * 5000, b"[" * 1000 + b"]" * 1000, b'{"a":' * 1000 + b"1" + b"}" * 1000,
    b"[%s0]" % (b"0," * 2_000), b"[%s0]" % (b"{}," * 2_000),
    b"", b" ", b"\0", b"/* x */", b"'x'", b"\xef\xbb\xbf", b"\\", b'"', b"]", b"}", b",", b":",
]  # fmt: skip
"""What stands where another value is wanted: values of other types and sizes, and no JSON."""

MARK = "\ue000"


def mutants(seed: bytes, kind: str) -> st.SearchStrategy[bytes]:
    """Return hostile versions of a sound input; `kind` says what it is made of."""
    own = {"json": JSON, "lines": LINES, "probe": PROBE}.get(kind, ())
    return st.builds(
        lambda mutation, number: mutation(Random(number), seed),
        st.sampled_from([*BYTES, *own * 3]),
        st.integers(0, 2**32),
    )


def flip(rng: Random, data: bytes) -> bytes:
    out = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] = rng.choice([rng.randrange(256), *b'"{}[],:\n\0\\9e-'])
    return bytes(out)


def cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def splice(rng: Random, data: bytes) -> bytes:
    start, end, at = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:at] + data[start:end] + data[at:]


def insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(ODD) + data[at + rng.choice([0, 0, 1, 5]) :]


def encode_anew(rng: Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(["utf-8-sig", "utf-16", "utf-32", "utf-7"]))


def end_lines_otherwise(rng: Random, data: bytes) -> bytes:
    return data.replace(
        b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b"", b"\0\n", "\u2028".encode()])
    )


def repeat(rng: Random, data: bytes) -> bytes:
    return data * rng.choice([0, 2, 3])


BYTES: tuple[Mutation, ...] = (
    flip, cut, splice, insert, encode_anew, end_lines_otherwise, repeat
)  # fmt: skip


def change_json(rng: Random, data: bytes) -> bytes:
    """Put odd things in places of a JSON text; drop, rename and repeat its keys."""
    value = json.loads(data)
    odd = []
    for _ in range(rng.randint(1, 3)):
        place, key = _place(rng, value)
        if place is None:
            return rng.choice(ODD)
        change = rng.random()
        if change < 0.1:
            del place[key]
        elif change < 0.2 and isinstance(place, dict):
            place[rng.choice(["", "x", "a.b", "__proto__", "\n", key * 1000])] = place.pop(key)
        elif change < 0.3 and isinstance(place, dict):
            # A mark in a key makes another one, and the mark is taken off: the key comes twice.
            place[key + MARK] = rng.choice([None, place[key], 7])
        else:
            place[key] = f"{MARK}{len(odd)}{MARK}"
            odd.append(rng.choice(ODD))
    text = json.dumps(value, ensure_ascii=False).encode()
    for number, each in enumerate(odd):
        text = text.replace(f'"{MARK}{number}{MARK}"'.encode(), each)
    return text.replace(MARK.encode(), b"")


def _place(rng: Random, value: Any) -> tuple[Any, Any]:
    """Return a container at any depth, and one of its keys."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inner = value[key]
        if not (isinstance(inner, dict | list) and inner and rng.random() < 0.8):
            return value, key
        value = inner
    return None, None


JSON: tuple[Mutation, ...] = (change_json,)


def change_line(rng: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(lines))
        body = lines[at].rstrip(b"\n")
        try:
            lines[at] = change_json(rng, body) + b"\n"
        except (ValueError, RecursionError):
            lines[at] = rng.choice(BYTES)(rng, body) + b"\n"
    return b"".join(lines)


def move_lines(rng: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines[at], lines[to] = lines[to], lines[at]
    elif change == 1:
        del lines[at]
    elif change == 2:
        lines.insert(to, lines[at])
    else:
        lines.insert(to, rng.choice(ODD) + b"\n")
    return b"".join(lines)


LINES: tuple[Mutation, ...] = (change_line, change_line, move_lines)


def change_header(rng: Random, data: bytes) -> bytes:
    header, rest = _header(data)
    return _with_header(change_json(rng, header), rest)


def change_description(rng: Random, data: bytes) -> bytes:
    header, rest = _header(data)
    whole = json.loads(header)
    meta = whole["__metadata__"]
    meta["emoguard"] = change_json(rng, meta["emoguard"].encode()).decode("utf-8", "replace")
    return _with_header(json.dumps(whole).encode(), rest)


def change_tensors(rng: Random, data: bytes) -> bytes:
    header, rest = _header(data)
    odd = rng.choice([b"\xff", b"\0", struct.pack("<f", float("nan")), struct.pack("<f", 3e38)])
    at, count = rng.randrange(len(rest)), rng.choice([4, 64, len(rest)])
    filled = (odd * count)[: min(count, len(rest) - at)]
    return _with_header(header, rest[:at] + filled + rest[at + len(filled) :])


def resize(rng: Random, data: bytes) -> bytes:
    size = rng.choice([0, 1, 2, len(data), len(data) - 8, 2**22, 2**32, 2**63, 2**64 - 1])
    return struct.pack("<Q", size) + data[8:]


def deepen(rng: Random, data: bytes) -> bytes:
    piece = rng.choice([b"[", b'{"a":', b'[{"a":'])
    header = rng.choice([b"", b'{"__metadata__": {"emoguard": "', b'{"__metadata__":'])
    return _with_header(header + piece * rng.randrange(1, 400_000), data[8:])


def _header(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + size], data[8 + size :]


def _with_header(header: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


PROBE: tuple[Mutation, ...] = (
    change_header, change_description, change_description, change_tensors, resize, deepen
)  # fmt: skip


LINE = b'{"line":1,"prev":"' + b"0" * 64 + b'",,"mac":"' + b"0" * 64 + b'"}\n'

LARGE: dict[str, tuple[bytes, bytes, bytes]] = {
    # The quick profile takes the first few.
    "one line": (b"", b"a", b""), "empty lines": (b"", b"\n", b""), "deep lists": (b"", b"[", b""),
    "lines of {}": (b"", b"{}\n", b""), "many small objects": (b"[", b'{"":0},', b"0]"),
    "zeros": (b"", b"\0", b""), "two-byte lines": (b"", b"a\n", b""), "words": (b"", b"a b ", b""),
    "deep objects": (b"", b'{"a":', b""), "deep yaml": (b"", b"- ", b""),
    "lines of []": (b"", b"[]\n", b""), "lines of 1": (b"", b"1\n", b""),
    "lines of deep lists": (b"", b"[" * 2000 + b"\n", b""), "texts": (b"", b'{"text":"a"}\n', b""),
    "odd topics": (b"", b'{"text":"a","emotion":"b","topic":[[[]]]}\n', b""),
    "lines of a log": (b"", LINE, b""), "lines of a log and others": (b"", b"x\n" + LINE, b""),
    "beginnings of a line": (b"", b'{"line":1,"prev":"\n', b""),
    "rows of a table": (b"", b"a\tb\n", b""),
    "wide rows of a table": (b"", b"a\t" + b"b," * 500 + b"\n", b""),
    "not UTF-8": (b"", b"\xff\xfe\n", b""), "astral": (b"", "\U0001f600".encode(), b""),
    "quotes": (b"", b'"', b""), "escapes": (b"", b"\\", b""), "anchors": (b"", b"- &a [*a]\n", b""),
    "many lists": (b"[", b"[],", b"0]"), "many objects": (b"[", b"{},", b"0]"),
    "many numbers": (b"[", b"1,", b"0]"), "many texts": (b"[", b'"ab",', b"0]"),
    "nested lists": (b"[", b"[[[[[0]]]]],", b"0]"), "one text": (b'"', b"a", b'"'),
    "one astral text": ('"\U0001f600'.encode(), b"a", b'"'), "one number": (b"", b"9", b""),
    "one fraction": (b"0.", b"1", b""), "one key": (b'{"', b"a", b'":1}'),
    "repeated keys": (b"{", b'"a":1,', b'"a":1}'), "escaped text": (b'"', b"\\n", b'"'),
    "surrogates": (b'["', b"\\ud83d\\ude00", b'"]'),
}  # fmt: skip
"""Beginning, unit and end of files that cost much where they are read without bounds."""


def write_large(path: Path, pattern: tuple[bytes, bytes, bytes], size: int) -> None:
    """Write a file of about `size` bytes without holding it."""
    start, unit, end = pattern
    units = (size - len(start) - len(end)) // len(unit)
    each = max(1, 2**18 // len(unit))
    with path.open("wb") as file:
        file.write(start)
        for _ in range(units // each):
            file.write(unit * each)
        file.write(unit * (units % each) + end)
