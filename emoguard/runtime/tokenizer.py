"""What a tokenizer of Hugging Face says about reasoning."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from emoguard.runtime.phases import THINKING_MARKS, Thinking
from emoguard.runtime.template import opens_reasoning


def find_thinking(tokenizer: Any) -> Thinking | None:
    """Return the tokenizer's reasoning marks, None unless both are single tokens of it.

    Whether a template or somebody else wrote a prompt cannot be seen: where there is a template,
    only a mark that it can write itself opens reasoning.
    """
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
    for opening, closing in THINKING_MARKS:
        if opening in vocabulary and closing in vocabulary:
            opens = not getattr(tokenizer, "chat_template", None)
            return Thinking(
                vocabulary[opening],
                vocabulary[closing],
                opens or opens_reasoning(_renderer(tokenizer), opening),
                cache(_blank(tokenizer)),
            )
    return None


def _renderer(tokenizer: Any) -> Callable[..., str]:
    """Return what the tokenizer's chat template makes of messages."""
    return lambda messages, **switches: str(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **switches
        )
    )


def _blank(tokenizer: Any) -> Callable[[int], bool]:
    return lambda token: not tokenizer.decode([token], skip_special_tokens=False).strip()
