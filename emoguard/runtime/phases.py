"""Assigns tokens to phases: preparation, reasoning or response.

Only two writers may open reasoning: the chat template, at the very end of the prompt, and the
model, before its answer has begun. Marks anywhere else are mere text: in a message, in a document,
in an answer that was lured into them. They would hide the rest from the monitor, so they are
ignored. Reasoning that is never closed counts as the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emoguard.records import PHASES, Reasoning

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREPARATION, REASONING, RESPONSE = (PHASES.index(p) for p in PHASES)


def _never(_token: int) -> bool:
    return False


class Thinking(NamedTuple):
    """The marks around a model's reasoning, as token ids.

    `opening` are the tokens that open it, mostly one, and `closing` is the one that ends it.
    `again` are those that a model writes before it opens more: a header of its next message.
    `opens_prompts` says that a prompt which ends in the opening mark starts in reasoning: its end
    is the template's, or that of a caller who writes whole prompts. `is_blank` returns whether a
    token is whitespace; special tokens are not.
    """

    opening: tuple[int, ...]
    closing: int
    again: tuple[int, ...] = ()
    opens_prompts: bool = True
    is_blank: Callable[[int], bool] = _never

    def starts_inside(self, prompt_ids: Sequence[int]) -> bool:
        """Return whether a response to this prompt begins in reasoning."""
        if not self.opens_prompts:
            return False
        last: list[int] = []
        for token in reversed(prompt_ids):
            if not self.is_blank(token):
                last.insert(0, token)
            if len(last) == len(self.opening):
                break
        return tuple(last) == self.opening


class Marker:
    """Returns the phase of one generated token after the other, as indices into `PHASES`.

    The first is read at the last prompt token: preparation. Reasoning runs up to its closing mark;
    the marks themselves belong to it. It is opened by the end of the prompt or by the model, as
    long as nothing but whitespace and reasoning was generated before. `open` counts the last tokens
    whose reasoning is not closed yet.
    """

    def __init__(self, prompt_ids: Sequence[int], thinking: Thinking | None = None) -> None:
        self.open = 0
        self._thinking = thinking
        self._first = True
        self._answering = thinking is None
        self._begun: tuple[int, ...] = ()
        self._inside = thinking is not None and thinking.starts_inside(prompt_ids)

    def next(self, token: int) -> int:
        """Return the phase of the next token."""
        phase = RESPONSE if self._thinking is None else self._phase(token, self._thinking)
        first, self._first = self._first, False
        return PREPARATION if first else phase

    def all(
        self, token_ids: Sequence[int], *, ended: bool = False
    ) -> tuple[NDArray[np.uint8], Reasoning]:
        """Return the phase of each token, and how reasoning was separated from the response.

        Once a response has `ended`, reasoning that was never closed counts as response.
        """
        phases = np.array([self.next(token) for token in token_ids], np.uint8)
        if self._thinking is None:
            return phases, "unknown"
        if not (ended and self.open):
            return phases, "marked"
        phases[1:][-self.open :] = RESPONSE  # the first is preparation whatever it is
        return phases, "unclosed"

    def _phase(self, token: int, thinking: Thinking) -> int:
        if self._inside:
            self._inside = token != thinking.closing
            self.open = self.open + 1 if self._inside else 0
            return REASONING
        if self._answering or (not self._begun and thinking.is_blank(token)):
            return RESPONSE
        begun = (*self._begun, token)
        openings = thinking.opening, thinking.again + thinking.opening
        self._inside = begun in openings
        is_mark = self._inside or any(begun == opening[: len(begun)] for opening in openings)
        self._begun = begun if is_mark and not self._inside else ()
        self._answering = not is_mark
        self.open = len(begun) if self._inside else 0
        return REASONING if is_mark else RESPONSE


def mark(
    prompt_ids: Sequence[int], token_ids: Sequence[int], thinking: Thinking | None = None
) -> NDArray[np.uint8]:
    """Return the phase of each generated token, shape (tokens,), of a response under way."""
    return Marker(prompt_ids, thinking).all(token_ids)[0]
