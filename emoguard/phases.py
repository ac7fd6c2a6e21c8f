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


def mark(
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    thinking: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Return the phase of each generated token, as indices into `PHASES`, shape (tokens,).

    The first row is read at the last prompt token: preparation. `thinking` are the ids of the
    opening and closing mark; a prompt that ends inside an open mark starts in reasoning. The marks
    themselves count as reasoning.
    """
    phases = np.full(len(token_ids), RESPONSE, np.uint8)
    if thinking is not None:
        opening, closing = thinking
        marks = [token for token in prompt_ids if token in thinking]
        inside = bool(marks) and marks[-1] == opening
        for index, token in enumerate(token_ids):
            inside = inside or token == opening
            if inside:
                phases[index] = REASONING
            inside = inside and token != closing
    phases[:1] = PREPARATION
    return phases
