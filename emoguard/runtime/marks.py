"""Finds the marks around a model's reasoning in its tokenizer and chat template.

A wrong pair would hide an answer from the monitor, so none is guessed: both marks must be tokens of
the vocabulary, and a chat template, if there is one, must contain them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from emoguard.runtime.phases import Thinking
from emoguard.runtime.template import Render, opens_reasoning

log = logging.getLogger("emoguard")


class Marks(NamedTuple):
    """The tokens that a family of models writes around its reasoning.

    `again` comes before it opens more, once it has closed some.
    """

    opening: tuple[str, ...]
    closing: str
    again: tuple[str, ...] = ()


KNOWN = (
    Marks(("<think>",), "</think>"),
    Marks(("<|channel>",), "<channel|>"),  # Gemma 4
    Marks(  # harmony, of gpt-oss: other channels than analysis are for the user or for tools
        ("<|channel|>", "analysis", "<|message|>"), "<|end|>", ("<|start|>", "assistant")
    ),
    Marks(("<|inner_prefix|>",), "<|inner_suffix|>"),  # Apertus
    Marks(("<|START_THINKING|>",), "<|END_THINKING|>"),  # Command R7B, Command A Reasoning
    Marks(("[THINK]",), "[/THINK]"),  # Magistral
    Marks(("<seed:think>",), "</seed:think>"),  # Seed-OSS
    Marks(("◁think▷",), "◁/think▷"),  # Kimi
)
"""Marks known without a response template."""

SIGNS = ("thinking", "reasoning_content", "think>", "THINK", "<|channel|>")
"""Words in chat templates of models that reason."""

UNMARKED = (
    "the chat template speaks of reasoning, but with no marks that EmoGuard knows and that are "
    "tokens of this vocabulary: reasoning counts as response"
)

NO_TOKEN = -1
"""Stands for a word that is not a single token: no generated token equals it."""


def find_thinking(
    token: Callable[[str], int | None],
    template: str,
    render: Render,
    is_blank: Callable[[int], bool],
    named: Marks | None = None,
) -> Thinking | None:
    """Return the marks of a model's reasoning; None if none are known, which may be logged.

    `token` returns the id of a text that is one token. `template` is the source of the chat
    template, "" without one, and `render` what it makes of messages. `named` are marks that the
    tokenizer itself declares.

    A prompt does not show whether a template wrote it: if there is a template, only a mark that it
    can write itself opens reasoning.
    """
    match = next((m for m in (named, *KNOWN) if m and _holds(m, token, template, named)), None)
    if match is None:
        if any(sign in template for sign in SIGNS):
            log.warning(UNMARKED)
        return None
    opening, again = (
        tuple(_id(token, part) for part in parts) for parts in (match.opening, match.again)
    )
    opens = not template or opens_reasoning(render, "".join(match.opening))
    return Thinking(opening, _id(token, match.closing), again, opens, cache(is_blank))


def _holds(
    marks: Marks, token: Callable[[str], int | None], template: str, named: Marks | None
) -> bool:
    """Return whether both marks are tokens, and in the template or `named`, if there are any."""
    if token(marks.opening[0]) is None or token(marks.closing) is None:
        return False
    spoken = not template or "".join(marks.opening) in template or marks.closing in template
    return spoken or marks is named


def _id(token: Callable[[str], int | None], text: str) -> int:
    number = token(text)
    return NO_TOKEN if number is None else number
