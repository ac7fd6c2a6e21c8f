"""Holds the memory of one model's hooks: the operator's output in a step, and its orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from emoguard_torch.packed import move
from emoguard_torch.read import Weights, project
from emoguard_torch.steer import MOVES, Layer

from emoguard.probe.probe import Readout

KEPT = 64
"""Residuals of a step that can be read out where there is no door: the witness needs fewer."""


@dataclass(frozen=True, eq=False)
class Planned:
    """The rows of one step that plans move: `rows` (n,), whose `owners` (n,) are rows of `layers`.

    `layers` maps the number of a block to its interventions.
    """

    rows: torch.Tensor
    owners: torch.Tensor
    layers: dict[int, Layer]


@dataclass
class Broken:
    """The error in a step, as text."""

    reading: str | None = None
    steering: str | None = None


@dataclass(eq=False)
class Buffers:
    """What hooks on `layers` write for up to `tokens` rows of a step, at addresses that stay.

    `z` (layers, tokens, labels) of the layers that are read and `kept` (layers, n, hidden), the
    residuals of the rows that `keep` (n,) names, are NaN until written; so are `moves` (layers,
    tokens, 3) of the rows that are moved. z and moves are parts of the same rows; those of other
    layers and rows are 0. `fail` is called at once with an error in steering.
    """

    layers: Sequence[int]
    tokens: int
    labels: int
    hidden: int
    room: int
    device: torch.device
    planned: Planned | None = None
    keeping: int = 0
    broken: Broken = field(default_factory=Broken)
    fail: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        def filled(*shape: int, value: float = torch.nan) -> torch.Tensor:
            return torch.full(shape, value, device=self.device)

        count = len(self.layers)
        self._index = {layer: n for n, layer in enumerate(self.layers)}
        self._rows = filled(count, self.tokens, self.labels + MOVES, value=0.0)
        self.z, self.moves = self._rows.split([self.labels, MOVES], dim=2)
        self.kept = filled(count, self.room, self.hidden)
        self.keep = torch.zeros(self.room, dtype=torch.long, device=self.device)
        self._weights = [self._empty() for _ in self.layers]
        self._reads = [False] * count
        self._fresh = filled(count, 1, self.labels + MOVES, value=0.0)

    def _empty(self) -> Weights:
        matrix = torch.zeros(self.hidden, self.labels, device=self.device)
        return Weights(
            matrix,
            torch.zeros(self.hidden, device=self.device),
            torch.zeros(self.labels, device=self.device),
        )

    def load(self, readout: Readout) -> None:
        """Read by `readout` from now on: its layers among ours, its labels in the first columns."""
        wide = len(readout.labels)
        for own in self._weights:
            for part in (own.matrix, own.centre, own.shift):
                part.zero_()
        self._reads = [layer in readout.layers for layer in self.layers]
        self._fresh[:, :, : self.labels] = 0.0
        self._fresh[self._reads, :, : self.labels] = torch.nan
        for number, layer in enumerate(readout.layers):
            if layer in self._index:
                new = Weights.of(readout, number, self.device)
                own = self._weights[self._index[layer]]
                own.matrix[:, :wide].copy_(new.matrix)
                own.centre.copy_(new.centre)
                own.shift[:wide].copy_(new.shift)

    def begin(self, rows: int, planned: Planned | None, keep: Sequence[int]) -> None:
        """Forget the step before; set the rows of this one to move and to keep.

        Few calls of torch: after a forward pass the processor's caches hold weights, and a call
        costs several times what it costs in a loop.
        """
        self.broken = Broken()
        self.planned = planned
        self.keeping = len(keep)
        self._rows[:, :rows] = self._fresh
        if planned is not None:
            if len(planned.layers) == len(self.layers):
                self.moves.index_fill_(1, planned.rows, torch.nan)
            else:
                for layer in planned.layers:
                    self.moves[self._index[layer]].index_fill_(0, planned.rows, torch.nan)
        if keep:
            self.keep.zero_()  # entries of a longer step would point behind the end
            self.keep[: len(keep)].copy_(torch.tensor(keep))
            self.kept[:, : len(keep)].fill_(torch.nan)

    def see(self, hidden: torch.Tensor, residual: torch.Tensor | None, layer: int) -> None:
        """Take the output of block `layer`; runs after every block of every step.

        The stream is what the next norm makes of the two: their sum, rounded as stored. A row that
        is moved becomes h', 0, so that the next sum is h' to the bit.
        """
        place = self._index[layer]
        stream = hidden if residual is None else hidden + residual
        self._read(place, stream)
        if self.planned is not None and layer in self.planned.layers and not _capturing(stream):
            try:
                self._move(place, self.planned, hidden, residual, stream)
            except Exception as error:  # noqa: BLE001  (the response must not notice)
                self.broken.steering = f"{type(error).__name__}: {error}"
                self.planned = None
                self.fail(self.broken.steering)

    def _read(self, place: int, stream: torch.Tensor) -> None:
        try:
            if self._reads[place] or _capturing(stream):
                self.z[place, : len(stream)].copy_(project(self._weights[place], stream))
            if self.keeping or _capturing(stream):
                self.kept[place].copy_(stream.index_select(0, self.keep))
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self.broken.reading = f"{type(error).__name__}: {error}"
            if self._reads[place]:
                self.z[place, : len(stream)].fill_(torch.nan)

    def _move(
        self,
        place: int,
        planned: Planned,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        stream: torch.Tensor,
    ) -> None:
        at = planned.rows
        marks = torch.full((len(at), MOVES), torch.nan, device=self.device)
        layer = planned.layers[self.layers[place]].writing(marks)
        before = stream[at]
        moved = move(before.clone(), layer, planned.owners)  # works in place
        changed = (moved != before).any(dim=-1)
        if residual is not None:
            # A row that stays as it is keeps both parts.
            residual[at] = torch.where(changed[:, None], 0, residual[at])
            moved = torch.where(changed[:, None], moved, hidden[at])
        hidden[at] = moved
        self.moves[place, at] = marks

    def rows(self, places: Sequence[int]) -> torch.Tensor:
        """Return z and moves of `places`, summed over the layers here: (places, labels + 3)."""
        return pick(self._rows, 1, places).sum(0)


def pick(tensor: torch.Tensor, dim: int, places: Sequence[int]) -> torch.Tensor:
    """Return `places` of a dimension, in ascending order; a view where none between is left out."""
    if places[-1] - places[0] + 1 == len(places):
        return tensor.narrow(dim, places[0], len(places))
    return tensor.index_select(dim, torch.tensor(places, device=tensor.device))


def _capturing(tensor: torch.Tensor) -> bool:
    """Return whether this launch is recorded into a CUDA graph: it must not depend on the step."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
