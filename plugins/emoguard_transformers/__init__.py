"""Joins EmoGuard to Hugging Face Transformers models.

The runtime is loaded with the first model, not with this package, whose facts cost nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoguard.errors import EmoGuardError
from emoguard.extras import check_installed
from emoguard.policy.annotation import describe
from emoguard_transformers.files import FORMAT, hint, opens

if TYPE_CHECKING:
    from emoguard.guard import Guard
    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.served import Served
    from emoguard.runtime.speaker import Speaker
    from emoguard.study.speech import Attached
    from emoguard_transformers.transformers_joint import TransformersJoint

__all__ = [
    "BATCHES",
    "FORMAT",
    "SERVES",
    "hint",
    "joint",
    "open_app",
    "open_residuals",
    "open_speaker",
    "open_speech",
    "opens",
]

BATCHES = True
SERVES = (
    "device",
    "dtype",
    "continuous_batching",
    "num_blocks",
    "max_batch_tokens",
    "max_memory_percent",
)
"""Options of `emoguard serve` that `open_app` takes, beside host, port and api_key."""


def open_residuals(model: Any, tokenizer: Any = None) -> Residuals:
    """Return the offline door into a causal language model; `tokenizer` lets it read text."""
    from emoguard_transformers.door import Door

    _check_tokenizer(tokenizer)
    return Door(model, tokenizer)


def joint(model: Any, tokenizer: Any = None) -> TransformersJoint:
    """Return the joint to a model whose `generate` is to be watched.

    Pass the `tokenizer` if there is one. Without it, reasoning (`<think>`) counts as the response
    in every score, and notices do not see the text: a claim in it, to be human say, is never found.
    The chat template is then no part of a calibration's identity.

    Generation without one pass per chosen token is refused or goes unread, as `on_unsupported` of
    the policy says: an assistant model or prompt lookup, beams, classifier-free guidance, and the
    caller's own loop (`custom_generate=`); continuous batching that is asynchronous, compiled or
    recorded as CUDA graphs. Managers made before the attach are not followed.

    Raises:
        EmoGuardError: something else than a tokenizer, an architecture without a known place to
            read.

    """
    from emoguard_transformers.transformers_joint import TransformersJoint

    _check_tokenizer(tokenizer)
    return TransformersJoint(model, tokenizer)


def open_speaker(path: Path, threads: int | None = None) -> Speaker:  # noqa: ARG001
    """Open a folder that `save_pretrained` wrote, or a GGUF file, which is dequantised.

    Raises:
        EmoGuardError: it has no tokenizer.
        ValueError, OSError: Transformers cannot load it.

    """
    from emoguard_transformers.speaker import TransformersSpeaker

    return TransformersSpeaker.load(path)


def open_speech(speaker: Speaker, guard: Guard | None) -> Attached:
    """Return the model as a study needs it, watched by `guard` until closed."""
    from emoguard_transformers.speech import TransformersSpeech

    return TransformersSpeech(speaker, guard)


def open_app(
    path: str,
    *,
    continuous_batching: bool = False,
    num_blocks: int | None = None,
    max_batch_tokens: int | None = None,
    max_memory_percent: float | None = None,
    **options: Any,
) -> Served:
    """Open the app of `transformers serve` for one folder.

    With `continuous_batching` requests are answered together; the three after it are the numbers
    of that batch. `options` are those of `server.open_app`.

    Raises:
        EmoGuardError: a library of that server is missing, the model cannot be loaded, or others
            can reach the server without an api_key.

    """
    check_installed("transformers serve", "openai", "fastapi", "uvicorn", "transformers")
    from emoguard_transformers import server

    numbers = {
        "num_blocks": num_blocks,
        "max_batch_tokens": max_batch_tokens,
        "max_memory_percent": max_memory_percent,
    }
    batch = server.batching(**{name: n for name, n in numbers.items() if n is not None})
    return server.open_app(path, batch=batch if continuous_batching else None, **options)


def _check_tokenizer(tokenizer: Any) -> None:
    # A stand-in may do only a part of a tokenizer's work: encode texts, or list the vocabulary.
    is_one = callable(tokenizer) or hasattr(tokenizer, "get_vocab")
    is_one = is_one and not isinstance(tokenizer, type)
    if tokenizer is not None and not is_one:
        raise EmoGuardError(
            f"tokenizer: wanted a tokenizer, got {describe(tokenizer)}: "
            "AutoTokenizer.from_pretrained opens one, and a processor has one as .tokenizer"
        )
