"""Joins EmoGuard to Hugging Face Transformers models."""

from __future__ import annotations

from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import describe
from emoguard.probe.residuals import Residuals
from emoguard_transformers.door import Door
from emoguard_transformers.joint import TransformersJoint

__all__ = ["joint", "open_residuals"]


def open_residuals(model: Any, tokenizer: Any = None) -> Residuals:
    """Return the offline door into a causal language model; `tokenizer` lets it read text."""
    _check_tokenizer(tokenizer)
    return Door(model, tokenizer)


def joint(model: Any, tokenizer: Any = None) -> TransformersJoint:
    """Return the joint to a model whose `generate` is to be watched.

    Give the `tokenizer` where there is one. Without it, reasoning (`<think>`) is not told apart and
    counts as the response in every score, and notices do not see the text: a claim in it, of being
    human say, is never found. The chat template is then no part of a calibration's identity.

    Generation without one pass per chosen token is refused or goes unread, as `on_unsupported` of
    the policy says: an assistant model or prompt lookup, beams, classifier-free guidance, and the
    caller's own loop (`custom_generate=`); continuous batching that is asynchronous, compiled or
    recorded as CUDA graphs. Managers that were made before the attach are not followed.

    Raises:
        EmoGuardError: something else than a tokenizer, an architecture without a known place to
            read.

    """
    _check_tokenizer(tokenizer)
    return TransformersJoint(model, tokenizer)


def _check_tokenizer(tokenizer: Any) -> None:
    # Stand-ins may do part of what a tokenizer does: texts to ids, or telling its vocabulary.
    is_one = callable(tokenizer) or hasattr(tokenizer, "get_vocab")
    is_one = is_one and not isinstance(tokenizer, type)
    if tokenizer is not None and not is_one:
        raise EmoGuardError(
            f"tokenizer: wanted a tokenizer, got {describe(tokenizer)}: "
            "AutoTokenizer.from_pretrained opens one, and a processor has one as .tokenizer"
        )
