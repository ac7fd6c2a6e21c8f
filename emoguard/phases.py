"""Which part of an answer a token belongs to: preparation, reasoning or response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.records import PHASES

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREPARATION, REASONING, RESPONSE = (PHASES.index(p) for p in PHASES)

THINKING_MARKS = (("<think>", "</think>"), ("<|channel>", "<channel|>"))
"""Pairs of special tokens between which models write their reasoning."""


class Marker:
    """Tells the phase of one generated token after the other, as indices into `PHASES`.

    The first is read at the last prompt token: preparation. `thinking` are the ids of the opening
    and closing mark; a prompt that ends inside an open mark starts in reasoning. The marks
    themselves count as reasoning.
    """

    def __init__(self, prompt_ids: Sequence[int], thinking: tuple[int, int] | None = None) -> None:
        self._thinking = thinking
        self._first = True
        marks = [token for token in prompt_ids if thinking and token in thinking]
        self._inside = bool(marks and thinking and marks[-1] == thinking[0])

    def next(self, token: int) -> int:
        """Return the phase of the next token."""
        phase = RESPONSE
        if self._thinking is not None:
            opening, closing = self._thinking
            inside = self._inside or token == opening
            phase = REASONING if inside else RESPONSE
            self._inside = inside and token != closing
        first, self._first = self._first, False
        return PREPARATION if first else phase


def mark(
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    thinking: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Return the phase of each generated token, shape (tokens,); see `Marker`."""
    marker = Marker(prompt_ids, thinking)
    return np.array([marker.next(token) for token in token_ids], np.uint8)
