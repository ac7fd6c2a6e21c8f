"""Defines the messages between EmoGuard in the front end and in the workers of one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from emoguard_torch.steer import MOVES
from numpy.typing import NDArray


@dataclass(frozen=True)
class Order:
    """The worker's order for one sequence; travels in its `extra_args`.

    `first` is the first position that `plan` moves, `bound` the policy's, `calibration` the digest
    of the model identity it was prepared for. `sink` if the whole prompt is an attention sink,
    which generated tokens may extend. `door` asks for residuals instead of rows.
    """

    first: int = 0
    plan: Mapping[str, Any] | None = None
    bound: float = 0.0
    calibration: str = ""
    sink: bool = False
    door: bool = False

    def data(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Return the order that plain data describe."""
        return cls(**data)


@dataclass(frozen=True)
class Carried:
    """Rows of one sequence's tokens of one step, and the error there.

    They are (tokens, labels + MOVES): z of the labels, then dose, clipped, faulted.
    """

    rows: NDArray[np.float32]
    reading: str | None = None
    steering: str | None = None

    def pack(self) -> list[Any]:
        """Return plain data."""
        return [self.rows.shape[1], self.rows.tobytes(), self.reading, self.steering]

    @classmethod
    def unpack(cls, data: Sequence[Any]) -> Self:
        """Return the rows that `pack` packed."""
        width, rows, reading, steering = data
        return cls(np.frombuffer(rows, np.float32).reshape(-1, width), reading, steering)


@dataclass(frozen=True)
class Step:
    """Rows (n, labels + MOVES) of all tokens of one step; travels from a worker to the EngineCore.

    `spans` assigns them to sequences, `reading` is an error for all, `steering` the errors by
    sequence.
    """

    rows: NDArray[np.float32]
    spans: Mapping[str, range]
    reading: str | None
    steering: Mapping[str, str]

    def carried(self, request: str, tokens: int) -> Carried | None:
        """Return the rows to send with the first `tokens` of a request's tokens."""
        span = self.spans.get(request)
        if span is None or not tokens:
            return None
        rows = self.rows[span.start : span.stop][:tokens]
        if len(rows) < tokens:  # lost
            rows = np.full((tokens, self.rows.shape[1]), np.nan, np.float32)
        broken = self.steering.get(request)
        if broken is not None:
            rows = rows.copy()
            rows[:, -MOVES:] = np.nan
        return Carried(rows, self.reading, broken)
