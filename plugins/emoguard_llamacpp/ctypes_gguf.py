"""Locates tensors in a GGUF file, with ggml's own reader."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard_llamacpp.ctypes_symbols import bind


@dataclass(frozen=True)
class TensorData:
    """The place of one tensor's bytes in a GGUF file."""

    name: str
    type: int
    start: int
    size: int


class GgufParameters(ctypes.Structure):
    """`struct gguf_init_params`."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


@contextmanager
def open_gguf(path: Path) -> Iterator[Any]:
    """Open a GGUF file's header with ggml's own reader; yields its context."""
    start = bind(ctypes.c_void_p, (ctypes.c_char_p, GgufParameters), "gguf_init_from_file")
    header = start(str(path).encode(), GgufParameters(no_alloc=True, context=None))
    if not header:
        raise EmoGuardError(f"{path.name} is no GGUF file that llama.cpp can read")
    try:
        yield header
    finally:
        bind(None, (ctypes.c_void_p,), "gguf_free")(header)


def gguf_tensors(path: Path) -> list[TensorData]:
    """Return name, type, offset and size in bytes of every tensor in a GGUF file."""
    number, index = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_int64)
    count = bind(number, (ctypes.c_void_p,), "gguf_get_n_tensors")
    data = bind(ctypes.c_size_t, (ctypes.c_void_p,), "gguf_get_data_offset")
    name = bind(ctypes.c_char_p, index, "gguf_get_tensor_name")
    kind = bind(ctypes.c_int, index, "gguf_get_tensor_type")
    offset = bind(ctypes.c_size_t, index, "gguf_get_tensor_offset")
    size = bind(ctypes.c_size_t, index, "gguf_get_tensor_size")
    with open_gguf(path) as header:
        base = data(header)
        return [
            TensorData(
                name(header, i).decode(),
                kind(header, i),
                base + offset(header, i),
                size(header, i),
            )
            for i in range(count(header))
        ]
