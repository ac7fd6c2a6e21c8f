"""Reads the marks of reasoning from a Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emoguard.runtime import marks
from emoguard.runtime.marks import Marks
from emoguard.runtime.phases import Thinking


def find_thinking(tokenizer: Any) -> Thinking | None:
    """Return the marks of the tokenizer's model around its reasoning, None if none are known."""
    if tokenizer is None:
        return None
    templates = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(templates, Mapping):  # by name
        templates = "".join(map(str, templates.values()))
    return marks.find_thinking(
        tokenizer.get_vocab().get,
        str(templates),
        _renderer(tokenizer),
        _blank(tokenizer),
        _named(tokenizer),
    )


def _named(tokenizer: Any) -> Marks | None:
    """Return the marks in the tokenizer's response template, None unless it names two texts."""
    template = getattr(tokenizer, "response_template", None)
    fields = template.get("fields") if isinstance(template, Mapping) else None
    for name in ("reasoning_content", "thinking"):
        field = fields.get(name) if isinstance(fields, Mapping) else None
        if isinstance(field, Mapping):
            opening, closing = field.get("open"), field.get("close")
            if isinstance(opening, str) and isinstance(closing, str):
                return Marks((opening,), closing)
    return None


def _renderer(tokenizer: Any) -> Callable[..., str]:
    """Render messages in the tokenizer's chat template."""
    return lambda messages, **switches: str(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **switches
        )
    )


def _blank(tokenizer: Any) -> Callable[[int], bool]:
    """Return a test for whitespace tokens; without a decoder no token passes."""
    decode = getattr(tokenizer, "decode", None)
    if decode is None:
        return lambda _token: False
    return lambda token: not decode([token], skip_special_tokens=False).strip()
