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

    Give the `tokenizer` where there is one. Without it, reasoning (`<think>`) is not told apart and
    counts as the response in every score, and notices do not see the text: a claim in it, of being
    human say, is never found. The chat template is then no part of a calibration's identity.

    Generation without one pass per chosen token is refused or goes unread, as `on_unsupported` of
    the policy says: an assistant model or prompt lookup, beams, classifier-free guidance,
    continuous batching, and the caller's own loop (`custom_generate=`).

    Raises:
        EmoGuardError: an architecture without a known place to read, a probe that does not fit, a
            model that is already watched.

    """
    return TransformersWatch(model, guard, tokenizer)
