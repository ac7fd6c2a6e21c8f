"""Takes requests out of calls of `generate`, and decides whether a generation can be read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from emoguard.errors import EmoGuardError
from emoguard.records import Request
from emoguard.runtime.session import take_request

ONE_ROW_PER_TOKEN = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)

INPUTS = ("input_ids", "inputs_embeds", "inputs")
"""Names of the prompts in calls of `generate`."""


def take_requests(kwargs: dict[str, Any]) -> Request | Sequence[Request]:
    """Take `emoguard=` out of a call: one request, or a list with one for each sequence.

    Raises:
        TypeError: something else.
        EmoGuardError: an empty list.

    """
    requests = kwargs.get("emoguard")
    if isinstance(requests, (list, tuple)):
        if not requests:
            raise EmoGuardError("emoguard= must be one Request or one for each sequence, got none")
        return [take_request({"emoguard": one}) for one in kwargs.pop("emoguard")]
    return take_request(kwargs)


def numbered(request: Request, rows: int) -> Sequence[Request]:
    """Return a request for each of `rows` sequences that one call makes."""
    if rows == 1:
        return [request]
    return [replace(request, id=f"{request.id}-{row}") for row in range(rows)]


def signature_of(generate: Callable[..., Any]) -> inspect.Signature:
    """Return the parameters of a model's `generate`: Transformers' own behind a bare `*args`."""
    own = inspect.signature(GenerationMixin.generate)
    own = own.replace(parameters=list(own.parameters.values())[1:])
    try:
        declared = inspect.signature(generate)
    except (TypeError, ValueError):
        return own
    kinds = {parameter.kind for parameter in declared.parameters.values()}
    return own if inspect.Parameter.VAR_POSITIONAL in kinds else declared


def by_name(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call of `generate` by parameter name."""
    named = dict(kwargs)
    with suppress(TypeError):  # too many arguments: `generate` raises itself
        named |= signature.bind_partial(*args).arguments
    if args and _inputs(named) is None:
        named["inputs"] = args[0]
    return named


def with_streamer(
    ours: Any, streamer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with `ours` in place of the caller's streamer."""
    if "streamer" in kwargs:
        return args, kwargs | {"streamer": ours}
    return tuple(ours if each is streamer else each for each in args), kwargs


def batch_size(arguments: Mapping[str, Any]) -> int:
    """Return how many prompts a call of `generate` has; without inputs it starts from BOS.

    Raises:
        EmoGuardError: prompts of no token at all, which Transformers meets with a reshape error.

    """
    inputs = _inputs(arguments)
    if inputs is None:
        return 1
    if inputs.ndim > 1 and not inputs.shape[1]:
        raise EmoGuardError("the prompt is empty: give the model at least one token to go on")
    return len(inputs)


def new_positions(arguments: Mapping[str, Any]) -> int:
    """Return how many positions of the prompts are not in the caller's cache yet."""
    inputs, cache = _inputs(arguments), arguments.get("past_key_values")
    if inputs is None or inputs.ndim < 2:
        return 1
    length = int(inputs.shape[1])
    if cache is None or not hasattr(cache, "get_seq_length"):
        return length
    mask = arguments.get("attention_mask")
    # A mask longer than the input means that only new tokens were passed.
    is_whole = mask is None or mask.shape[1] == length
    return length - int(cache.get_seq_length()) if is_whole else length


def _inputs(arguments: Mapping[str, Any]) -> Any:
    return next((arguments[name] for name in INPUTS if arguments.get(name) is not None), None)


def foreign_loop(arguments: Mapping[str, Any]) -> str | None:
    """Return the name of a loop other than Transformers' own: it may run the model at will."""
    return "a custom_generate loop" if arguments.get("custom_generate") is not None else None


def unsupported(generation_config: Any, assistant: Any) -> str | None:
    """Return the reason why Transformers' loop has no row for each chosen token; None if it has.

    So it is with an assistant, prompt lookup, beams and classifier-free guidance.
    """
    mode = generation_config.get_generation_mode(assistant)
    if mode not in ONE_ROW_PER_TOKEN:
        return str(mode.value).replace("_", " ")
    if generation_config.guidance_scale not in (None, 1, 1.0):
        return "classifier-free guidance (a second pass per token)"
    return None
