"""Joins EmoGuard to `llama_cpp.Llama` models.

The runtime is loaded with the first model, not with this package: what it opens can be asked
before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoguard_llamacpp.files import FORMAT, hint, opens
from emoguard_llamacpp.lock import lock

if TYPE_CHECKING:
    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.speaker import Speaker
    from emoguard_llamacpp.joint import LlamaJoint

__all__ = ["BATCHES", "FORMAT", "hint", "joint", "lock", "open_residuals", "open_speaker", "opens"]

BATCHES = False


def open_residuals(model: Any, backend: str = "auto") -> Residuals:
    """Return the offline door into a `llama_cpp.Llama`; `backend` is auto, native or callback."""
    from emoguard_llamacpp.door import Door

    return Door(model, backend)


def joint(model: Any, backend: str = "auto") -> LlamaJoint:
    """Return the joint to a `llama_cpp.Llama`. An attach drops what it holds in its cache.

    `backend` is the read path: `native` (no visible cost, for architectures on the shipped list),
    `callback` (any architecture with one residual stream), `auto` (native where it is safe, until
    the first plan asks for steering, which takes the callback).

    Raises:
        EmoGuardError: the model, or this path, cannot be watched.

    """
    from emoguard_llamacpp.joint import LlamaJoint

    return LlamaJoint(model, backend)


def open_speaker(path: Path, threads: int | None = None) -> Speaker:
    """Open a GGUF file with room for 4,096 tokens.

    `threads` None is llama.cpp's own choice: half the cores to generate, all to read a prompt.

    Raises:
        EmoGuardError: it is something else.
        ValueError: llama.cpp cannot load it.

    """
    from emoguard_llamacpp.speaker import LlamaSpeaker

    return LlamaSpeaker.load(path, threads)
