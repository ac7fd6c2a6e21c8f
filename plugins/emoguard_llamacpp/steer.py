"""Steers llama.cpp within the bound: edits `l_out-N` in the graph as it is computed."""

from __future__ import annotations

import numpy as np

from emoguard.runtime.interrupts import is_interrupt
from emoguard.steering.intervention import Steering
from emoguard.steering.moves import Moves
from emoguard.steering.rounding import FLOAT32
from emoguard_llamacpp import ctypes_llama


class Steer:
    """The steering of one session, called for every wanted node.

    The first error is kept in `fault` and ends the steering. Residuals go through one row of
    memory: every decode sweeps the processor's caches, so that each call saved counts. The first
    `spared` tokens of the decode to come are left alone.
    """

    def __init__(self, steering: Steering, hidden: int) -> None:
        self.steering = steering
        self.fault: Exception | None = None
        self._hidden = hidden
        self._whole = steering.plan.prompt
        self._layers = {b"l_out-%d" % layer: layer for layer in steering.layers}
        self._moves = Moves(steering, FLOAT32)
        self._tokens = 0
        self._to_come = dict.fromkeys(self._layers, 0)
        self.spared = 0
        self._row = np.empty(hidden, np.float32)
        self._address = self._row.ctypes.data

    def before(self, tokens: int) -> None:
        """Expect a decode of `tokens` tokens, in however many passes."""
        self._moves.forget()
        self._tokens = tokens
        self._to_come = dict.fromkeys(self._layers, tokens)
        self.spared = 0

    def see(self, tensor: int) -> None:
        """Move the rows of a node that are to be steered: its last token, or all.

        Only interrupts propagate: the row may be moved in part, and its token must not be chosen.
        """
        if self.fault is not None:
            return
        try:
            self._move(tensor)
        except Exception as error:
            if is_interrupt(error):
                raise
            self.fault = error

    def take(self) -> tuple[float, float, float] | None:
        """Return the move of the last decode's token; see `emoguard.steering.moves.Moves`."""
        return self._moves.take()

    def _move(self, tensor: int) -> None:
        name = ctypes_llama.tensor_name(tensor)
        layer = self._layers.get(name)
        if layer is None:
            return
        rows = ctypes_llama.row_count(tensor, self._hidden)
        spared = self.spared - (self._tokens - self._to_come[name])
        self._to_come[name] -= rows
        is_last = self._to_come[name] == 0
        if not (is_last or self._whole):
            return  # the last row of this pass is one of the prompt's own
        for place in range(max(spared, 0 if self._whole else rows - 1), rows):
            ctypes_llama.copy_row(tensor, self._hidden, place, self._address)
            moved = self._moves(layer, self._row)
            if moved is not None:
                self._row[:] = moved
                ctypes_llama.write_row(tensor, self._hidden, place, self._address)
        if not is_last:
            self._moves.forget(layer)
        elif spared >= rows:
            self._moves.spare(layer)
