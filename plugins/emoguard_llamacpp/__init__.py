"""Joins EmoGuard to `llama_cpp.Llama` models."""

from __future__ import annotations

from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.guard import Guard, check_guard
from emoguard.protocols import Residuals, Watch
from emoguard_llamacpp import support
from emoguard_llamacpp.door import Door
from emoguard_llamacpp.identity import identify
from emoguard_llamacpp.reader import READERS
from emoguard_llamacpp.watch import MARK, LlamaWatch

__all__ = ["attach", "open_residuals"]


def open_residuals(model: Any, backend: str = "auto") -> Residuals:
    """Return the offline door into a `llama_cpp.Llama`; `backend` is auto, native or callback."""
    return Door(model, backend)


def attach(model: Any, guard: Guard, backend: str = "auto") -> Watch:
    """Watch a `llama_cpp.Llama`. What it holds in its prompt cache is dropped.

    `backend` is the read path: `native` (no visible cost, for architectures on the shipped list),
    `callback` (any architecture with one residual stream), `auto` (native where it is safe, until
    the first plan asks for steering, which takes the callback).

    Raises:
        EmoGuardError: something else than a guard or a backend, a model that cannot be watched or
            is watched already, a probe that does not fit. The model is then as after `reset()`.

    """
    check_guard(guard)
    support.check_model(model)
    if MARK in vars(model):
        raise EmoGuardError("this Llama is watched already: detach() the first watch before")
    identity = identify(model)
    guard.probe.check_fits(identity)
    path = support.choose(identity.architecture, backend)
    support.check_witness(guard.probe, model)
    layers = guard.probe.layers
    reader = READERS[path](model, layers, identity.hidden)
    watch = LlamaWatch(model, guard, identity, reader, backend)
    watch.attach()
    return watch
