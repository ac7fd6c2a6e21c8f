"""Joins EmoGuard to Hugging Face Transformers models."""

from __future__ import annotations

from typing import Any

from emoguard.guard import Guard
from emoguard.protocols import Residuals
from emoguard_transformers.door import Door
from emoguard_transformers.watch import TransformersWatch

__all__ = ["TransformersWatch", "attach", "open_residuals"]


def open_residuals(model: Any, tokenizer: Any = None) -> Residuals:
    """Return the offline door into a causal language model; `tokenizer` lets it read text."""
    return Door(model, tokenizer)


def attach(model: Any, guard: Guard, tokenizer: Any = None) -> TransformersWatch:
    """Watch `model.generate` with `guard`.

    `tokenizer` tells the chat template (part of a calibration's identity) and the marks between
    which the model reasons; reading works without.

    Raises:
        EmoGuardError: an architecture without a known place to read, a probe that does not fit, a
            model that is already watched.

    """
    return TransformersWatch(model, guard, tokenizer)
