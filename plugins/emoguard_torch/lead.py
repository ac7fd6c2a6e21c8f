"""Counts the leading positions of a batch that steering skips: padding and attention sinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from emoguard.runtime.attention import only_token


@dataclass(eq=False)
class Lead:
    """The leading positions of each row that are left alone: padding and attention sinks.

    `counts` (rows, 1) is their number. Where all of a row is an attention sink, it grows as long as
    `first` (rows,), the token of the sink, is generated; `grows` says that any row's may. `end` is
    the number of positions that are computed once the pass in progress is over.
    """

    counts: torch.Tensor
    first: torch.Tensor
    end: torch.Tensor
    grows: bool

    @classmethod
    def of(
        cls, tokens: Sequence[Sequence[int]], counts: Sequence[int], length: int, device: Any
    ) -> Lead:
        """Return the lead of a batch of prompts of `length` positions, padding included.

        `tokens` are those that each row attends to, `counts` its leading positions to leave alone.
        """
        return cls(
            counts=torch.tensor(counts, device=device)[:, None],
            first=torch.tensor([row[0] for row in tokens], device=device),
            end=torch.tensor(length, device=device),
            grows=any(only_token(row) is not None for row in tokens),
        )

    def within(self, positions: int, waiting: torch.Tensor | None) -> torch.Tensor | None:
        """Return how many positions of this pass are left alone, (rows, 1), may be negative.

        `waiting` counts the positions of a chunked prefill still to come after this pass. None
        where it is plain that there are none.
        """
        if positions == 1 and waiting is None and not self.grows:
            return None
        start = self.end - positions
        if waiting is not None:
            start = start - waiting.clamp(min=0).to(start.device)
        return self.counts - start

    def advance(self, tokens: torch.Tensor) -> None:
        """Note the `tokens` (rows,) that were chosen."""
        is_sink = self.counts[:, 0] == self.end
        self.counts += (is_sink & (tokens.to(self.first.device) == self.first))[:, None]
        self.end += 1
