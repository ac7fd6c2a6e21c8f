"""Looks up functions exported by llama.cpp and ggml."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
from llama_cpp import _ggml
from llama_cpp import llama_cpp as bindings

from emoguard.errors import EmoGuardError


def symbol(*names: str) -> Any:
    """Return the first of `names` that the loaded libraries export, None without any."""
    for library in (bindings._lib, _ggml.libggml):  # noqa: SLF001
        for name in names:
            if hasattr(library, name):
                return getattr(library, name)
    return None


def bind(restype: Any, argtypes: tuple[Any, ...], *names: str) -> Any:
    """Return the first of `names` that is exported, as a function of these types.

    Raises:
        EmoGuardError: no library exports one.

    """
    function = symbol(*names)
    if function is None:
        raise EmoGuardError(
            f"llama-cpp-python {llama_cpp.__version__} does not export {names[0]}: "
            "install a version of llama-cpp-python that docs/reference/models.md names"
        )
    # A fresh function object: the library's own is shared by all users.
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    return ctypes.CFUNCTYPE(restype, *argtypes)(address)
