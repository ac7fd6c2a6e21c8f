"""Places the labels in the plane of the first two components of their directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.validate.judged import Task

PERMUTATIONS = 2000


@dataclass(frozen=True)
class Plane:
    """Coordinates by label, shares of variance, and the first component beside valence.

    `correlation` is |r| of the first coordinate with the signs of valence; 5 % of permutations of
    the signs exceed `chance`.
    """

    points: dict[str, tuple[float, float]]
    shares: tuple[float, float]
    correlation: float
    chance: float


def plane(task: Task, directions: NDArray[np.floating]) -> Plane:
    """Return the plane of unit directions (layers, labels, hidden), all layers counting the same.

    Computed from the labels' Gram matrix, so that any number of layers, of any width, has one
    plane. The first component points towards pleasant labels.
    """
    gram = np.einsum("lkh,lmh->km", directions, directions, dtype=np.float64) / len(directions)
    centring = np.eye(len(gram)) - 1 / len(gram)
    values, vectors = np.linalg.eigh(centring @ gram @ centring)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    coordinates = vectors[:, :2] * np.sqrt(values[:2])
    signs = np.array(task.signs, float)
    coordinates[:, 0] *= 1 if coordinates[:, 0] @ signs >= 0 else -1
    rng = np.random.default_rng(0)
    null = [_correlation(coordinates[:, 0], rng.permutation(signs)) for _ in range(PERMUTATIONS)]
    first, second = (values[:2] / values.sum()).tolist()
    return Plane(
        {name: (float(x), float(y)) for name, (x, y) in zip(task.names, coordinates, strict=True)},
        (first, second),
        _correlation(coordinates[:, 0], signs),
        float(np.quantile(null, 0.95)),
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if not a.std() or not b.std():
        return 0.0
    return abs(float(np.corrcoef(a, b)[0, 1]))
