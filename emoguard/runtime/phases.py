"""Which part of an answer a token belongs to: preparation, reasoning or response.

Only two writers may open reasoning: the chat template, at the very end of the prompt, and the
model, before its answer has begun. Marks anywhere else are text that somebody wrote: in a message,
in a document, in an answer that was talked into them. They would hide what follows from the
monitor, so they count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emoguard.records import PHASES

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREPARATION, REASONING, RESPONSE = (PHASES.index(p) for p in PHASES)

THINKING_MARKS = (("<think>", "</think>"), ("<|channel>", "<channel|>"))
"""Pairs of special tokens between which models write their reasoning."""


def _never(_token: int) -> bool:
    return False


class Thinking(NamedTuple):
    """The marks around a model's reasoning, each a single token of its vocabulary.

    `opens_prompts` says that a prompt which ends in the opening mark starts in reasoning: its end
    is the template's, or that of a caller who writes whole prompts. `is_blank` returns whether a
    token is whitespace; special tokens are not.
    """

    opening: int
    closing: int
    opens_prompts: bool = True
    is_blank: Callable[[int], bool] = _never

    def starts_inside(self, prompt_ids: Sequence[int]) -> bool:
        """Return whether a response to this prompt starts in reasoning."""
        if not self.opens_prompts:
            return False
        last = next((token for token in reversed(prompt_ids) if not self.is_blank(token)), None)
        return last == self.opening


class Marker:
    """Returns the phase of one generated token after the other, as indices into `PHASES`.

    The first is read at the last prompt token: preparation. Reasoning runs up to its closing mark;
    the marks themselves belong to it. It is opened by the end of the prompt or by the model, as
    long as nothing but whitespace and reasoning was generated before.
    """

    def __init__(self, prompt_ids: Sequence[int], thinking: Thinking | None = None) -> None:
        self._thinking = thinking
        self._first = True
        self._answering = False
        self._inside = thinking is not None and thinking.starts_inside(prompt_ids)

    def next(self, token: int) -> int:
        """Return the phase of the next token."""
        phase = RESPONSE if self._thinking is None else self._phase(token, self._thinking)
        first, self._first = self._first, False
        return PREPARATION if first else phase

    def _phase(self, token: int, thinking: Thinking) -> int:
        inside = self._inside or (token == thinking.opening and not self._answering)
        self._inside = inside and token != thinking.closing
        if not (inside or self._answering):
            self._answering = not thinking.is_blank(token)
        return REASONING if inside else RESPONSE


def mark(
    prompt_ids: Sequence[int], token_ids: Sequence[int], thinking: Thinking | None = None
) -> NDArray[np.uint8]:
    """Return the phase of each generated token, shape (tokens,); see `Marker`."""
    marker = Marker(prompt_ids, thinking)
    return np.array([marker.next(token) for token in token_ids], np.uint8)
