"""Collects the rows that hooks write, one per slot, on the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 256
"""Tokens for which room is made at a time."""


class Tape:
    """Rows and moves of slots, in the order in which their tokens were chosen.

    Hooks write into `pending` (layers, slots, labels), steering into `moves` (layers, slots, 3) if
    there is any. `take` sums both over layers into one row per slot, and sets them to NaN, so that
    a hook that does not fire is seen. Nothing here waits for the device until `read`.
    """

    def __init__(self, pending: torch.Tensor, moves: torch.Tensor | None = None) -> None:
        self.pending = pending
        self.moves = moves
        self.steps = 0
        self._blocks: list[tuple[torch.Tensor, torch.Tensor]] = []

    def take(self) -> torch.Tensor:
        """Keep the rows written since the last call; return them, (slots, labels)."""
        block, step = divmod(self.steps, BLOCK)
        if block == len(self._blocks):
            self._blocks.append(self._new_block())
        rows, moves = self._blocks[block]
        torch.sum(self.pending, 0, out=rows[step])
        self.pending.fill_(torch.nan)
        if self.moves is not None:
            torch.sum(self.moves, 0, out=moves[step])
            self.moves.fill_(torch.nan)
        self.steps += 1
        return rows[step]

    def read(self, steps: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Copy the first rows (steps, slots, labels) and moves (steps, slots, 3) to the host.

        Moves are empty without steering. May be called while another thread takes.
        """
        rows, moves = (
            np.concatenate([block[part].cpu().numpy() for block in self._blocks])
            for part in range(2)
        )
        return rows[:steps], moves[:steps]

    def pass_home(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Copy this pass to the host: rows (slots, labels) and moves (places, 3).

        For a runtime whose tokens come to the host after each pass; waits for the device.
        """
        rows = self.pending.sum(0).cpu().numpy()
        return rows, rows[:0] if self.moves is None else self.moves.sum(0).cpu().numpy()

    def _new_block(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return room for rows and moves of the next tokens: few tensors for many tokens.

        Never inference tensors, whatever mode the caller generates in.
        """
        _, slots, labels = self.pending.shape
        count = 0 if self.moves is None else self.moves.shape[-1]
        with torch.inference_mode(mode=False):
            rows = self.pending.new_full((BLOCK, slots, labels), torch.nan)
            return rows, self.pending.new_full((BLOCK, slots, count), torch.nan)
