"""Which requests a call of `generate` carries, and whether its generation can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.generation.configuration_utils import GenerationMode

from emoguard.errors import EmoGuardError
from emoguard.records import Request
from emoguard.session import take_request

ONE_ROW_PER_TOKEN = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)


def take_requests(kwargs: dict[str, Any]) -> Request | Sequence[Request]:
    """Take `emoguard=` out of a call: one request, or a list with one for each sequence."""
    given = kwargs.get("emoguard")
    if isinstance(given, (list, tuple)):
        return [take_request({"emoguard": one}) for one in kwargs.pop("emoguard")]
    return take_request(kwargs)


def batch_size(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Return how many prompts a call of `generate` has; without inputs it starts from BOS.

    Raises:
        EmoGuardError: prompts of no token at all, which Transformers meets with a reshape error.

    """
    found = _inputs(args, kwargs)
    if found is None:
        return 1
    if found.ndim > 1 and not found.shape[1]:
        raise EmoGuardError("the prompt is empty: give the model at least one token to go on")
    return len(found)


def new_positions(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Return how many positions of the prompts are not in the caller's cache yet."""
    found, cache = _inputs(args, kwargs), kwargs.get("past_key_values")
    if found is None or found.ndim < 2:
        return 1
    given = int(found.shape[1])
    if cache is None or not hasattr(cache, "get_seq_length"):
        return given
    mask = kwargs.get("attention_mask")
    # A mask longer than the input says that only what is new was passed.
    is_whole = mask is None or mask.shape[1] == given
    return given - int(cache.get_seq_length()) if is_whole else given


def _inputs(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return next(
        (kwargs[k] for k in ("inputs", "input_ids", "inputs_embeds") if kwargs.get(k) is not None),
        args[0] if args else None,
    )


def unsupported(generation_config: Any, assistant: Any) -> str | None:
    """Return why this generation has no one row per chosen token; None where it has."""
    mode = generation_config.get_generation_mode(assistant)
    if mode not in ONE_ROW_PER_TOKEN:
        return str(mode.value).replace("_", " ")
    if generation_config.guidance_scale not in (None, 1, 1.0):
        return "classifier-free guidance (a second pass per token)"
    return None
