"""Holds outcomes as arrays: one value per item and cell, ready for paired statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.study.statistics import Paired

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Panel:
    """Values (items,) per cell; NaN for items that do not count. `clusters` are drawn together."""

    names: tuple[str, ...]
    clusters: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(
        cls,
        records: Sequence[tuple[str, Mapping[str, Any]]],
        value: Callable[[str, Sequence[Mapping[str, Any]]], NDArray[np.float64]],
    ) -> Panel:
        """Return the panel of (name, record) pairs of one block, which all have the same cells.

        `value` gets a cell's key and the cell of every record, and returns (items,) values.
        """
        cells = [record["cells"] for _, record in records]
        keys = list(cells[0]) if cells else []
        return cls(
            tuple(name for name, _ in records),
            tuple(record["cluster"] for _, record in records),
            {key: value(key, [each[key] for each in cells]) for key in keys},
        )

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.bool_]) -> Panel:
        """Return the panel with some of the items."""
        return Panel(
            tuple(np.array(self.names)[rows].tolist()),
            tuple(np.array(self.clusters)[rows].tolist()),
            {key: each[rows] for key, each in self.values.items()},
        )

    def rate(self, key: str) -> float:
        """Return the mean over items in one cell."""
        return float(np.nanmean(self.values[key])) if len(self) else float("nan")

    def contrast(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        """Return Σ weight · value, (items,)."""
        total = np.zeros(len(self))
        for key, weight in weights.items():
            total = total + weight * self.values[key]
        # Verdicts that cancel must add up to exactly 0: thirds do not in binary.
        return np.round(total, 12)

    def paired(self, weights: Mapping[str, float]) -> Paired:
        """Return a contrast as differences within clusters."""
        return Paired.of(self.contrast(weights), self.clusters)


def difference(plus: Sequence[str], minus: Sequence[str], scale: float = 1.0) -> dict[str, float]:
    """Return weights of the mean of some cells less the mean of others."""
    weights: dict[str, float] = {}
    for keys, sign in ((plus, 1.0), (minus, -1.0)):
        for key in keys:
            weights[key] = weights.get(key, 0.0) + sign * scale / len(keys)
    return weights


def combined(*parts: Mapping[str, float]) -> dict[str, float]:
    """Return the sum of weights."""
    weights: dict[str, float] = {}
    for part in parts:
        for key, weight in part.items():
            weights[key] = weights.get(key, 0.0) + weight
    return weights
