"""Bounded steering in llama.cpp: edits `l_out-N` in the graph as it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emoguard.steering import Intervention, Steering, intervene
from emoguard_llamacpp import ctypes_llama

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Steer:
    """The steering of one session, called for every wanted node.

    `moves` (layers, 3) holds dose, clipped and faulted of the last token of the last decode, NaN
    until each layer has acted. Whatever breaks is kept in `fault`, and nothing is steered any more.
    """

    def __init__(self, steering: Steering, hidden: int) -> None:
        self.steering = steering
        self.fault: Exception | None = None
        self.moves = np.full((len(steering.layers), 3), np.nan, np.float32)
        self._hidden = hidden
        self._whole = steering.plan.prompt
        self._places: dict[bytes, tuple[int, Intervention]] = {
            b"l_out-%d" % each.layer: (n, each) for n, each in enumerate(steering.interventions)
        }
        self._to_come = dict.fromkeys(self._places, 0)

    def before(self, tokens: int) -> None:
        """Expect a decode of `tokens` tokens, in however many passes."""
        self.moves.fill(np.nan)
        self._to_come = dict.fromkeys(self._places, tokens)

    def see(self, tensor: int) -> None:
        """Move the rows of a node that are to be steered: its last token, or all; never raises."""
        if self.fault is not None:
            return
        try:
            self._move(tensor)
        except Exception as error:  # noqa: BLE001  (an exception in here would break off the graph)
            self.fault = error

    def take(self) -> NDArray[np.float32]:
        """Return what happened to the token of the last decode, layers added up, (3,)."""
        moved = self.moves.sum(axis=0)
        self.moves.fill(np.nan)
        return np.asarray(moved, np.float32)

    def _move(self, tensor: int) -> None:
        name = ctypes_llama.tensor_name(tensor)
        if name not in self._places:
            return
        index, intervention = self._places[name]
        rows = ctypes_llama.row_count(tensor)
        self._to_come[name] -= rows
        is_last = self._to_come[name] == 0
        if not (is_last or self._whole):
            return  # the last row of this pass is one of the prompt's own
        start = 0 if self._whole else rows - 1
        found = ctypes_llama.tensor_rows(tensor, self._hidden, start)
        moved = intervene(found, intervention)
        if moved.dose.any():
            ctypes_llama.write_rows(tensor, self._hidden, start, moved.h)
        if is_last:
            self.moves[index] = moved.dose[-1], moved.clipped[-1], moved.faulted[-1]
