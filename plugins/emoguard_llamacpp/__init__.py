"""Joins EmoGuard to `llama_cpp.Llama` models."""

from __future__ import annotations

from typing import Any

from emoguard.protocols import Residuals
from emoguard_llamacpp.door import Door

__all__ = ["open_residuals"]


def open_residuals(model: Any, backend: str = "auto") -> Residuals:
    """Return the offline door into a `llama_cpp.Llama`; `backend` is auto, native or callback."""
    return Door(model, backend)
