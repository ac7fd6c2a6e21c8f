"""Joins EmoGuard to `llama_cpp.Llama` models."""

from __future__ import annotations

from typing import Any

from emoguard.probe.residuals import Residuals
from emoguard_llamacpp.door import Door
from emoguard_llamacpp.joint import LlamaJoint

__all__ = ["joint", "open_residuals"]


def open_residuals(model: Any, backend: str = "auto") -> Residuals:
    """Return the offline door into a `llama_cpp.Llama`; `backend` is auto, native or callback."""
    return Door(model, backend)


def joint(model: Any, backend: str = "auto") -> LlamaJoint:
    """Return the joint to a `llama_cpp.Llama`. An attach drops what it holds in its cache.

    `backend` is the read path: `native` (no visible cost, for architectures on the shipped list),
    `callback` (any architecture with one residual stream), `auto` (native where it is safe, until
    the first plan asks for steering, which takes the callback).

    Raises:
        EmoGuardError: the model, or this path, cannot be watched.

    """
    return LlamaJoint(model, backend)
