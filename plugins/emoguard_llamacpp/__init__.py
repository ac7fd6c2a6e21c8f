"""Joins EmoGuard to `llama_cpp.Llama` models.

The runtime is loaded with the first model, not with this package, whose facts cost nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoguard_llamacpp.files import FORMAT, hint, opens
from emoguard_llamacpp.lock import lock

if TYPE_CHECKING:
    from emoguard.guard import Guard
    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.served import Served
    from emoguard.runtime.speaker import Speaker
    from emoguard.study.speech import Attached
    from emoguard_llamacpp.llama_joint import LlamaJoint

__all__ = [
    "BATCHES",
    "FORMAT",
    "SERVES",
    "hint",
    "joint",
    "lock",
    "open_app",
    "open_config",
    "open_residuals",
    "open_speaker",
    "open_speech",
    "opens",
]

BATCHES = False
SERVES = ("n_ctx", "n_threads", "n_gpu_layers")
"""Options of `emoguard serve` that `open_app` takes, beside host, port and api_key."""


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
    from emoguard_llamacpp.llama_joint import LlamaJoint

    return LlamaJoint(model, backend)


def open_speaker(path: Path, threads: int | None = None) -> Speaker:
    """Open a GGUF file with room for 4,096 tokens.

    `threads` None is llama.cpp's own choice: half the cores to generate, all to read a prompt.

    Raises:
        EmoGuardError: the object is something else.
        ValueError: llama.cpp cannot load it.

    """
    from emoguard_llamacpp.speaker import LlamaSpeaker

    return LlamaSpeaker.load(path, threads)


def open_speech(speaker: Speaker, guard: Guard | None) -> Attached:
    """Return the model as a study needs it, watched by `guard` until closed."""
    from emoguard_llamacpp.speech import LlamaSpeech

    return LlamaSpeech(speaker, guard)


def open_app(path: str, **options: Any) -> Served:
    """Open the app of llama_cpp.server for one GGUF file; options are that server's.

    Raises:
        EmoGuardError: there is no such file, an option is wrong, or others can reach the server
            without an api_key.

    """
    from emoguard_llamacpp import server

    defaults = {"host": "127.0.0.1", "n_ctx": 4096, "api_key": None}
    return server.open_app(*server.read_model(path, **{**defaults, **options}))


def open_config(path: str, **options: Any) -> Served:
    """Open the app of llama_cpp.server for a config file; options are of its server part.

    Raises:
        EmoGuardError: it cannot be read, is wrong, or has other than one model.

    """
    from emoguard_llamacpp import server

    return server.open_app(*server.read_config(path, **options))
