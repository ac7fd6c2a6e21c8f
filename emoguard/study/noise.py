"""Samples with common random numbers: draws depend on seed, item and step, never on the condition.

Sampling is the Gumbel-max trick: argmax(log p / T + g) with g ~ Gumbel is a draw from softmax at
temperature T. With the same g in every cell two cells differ only where their distributions do, up
to the first token that differs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP_P = 0.95
"""Mass of the nucleus at every temperature above 0."""

FIRST = 256
"""Tokens to sort before all others: a nucleus is rarely larger."""


@functools.lru_cache(maxsize=256)
def gumbel(seed: int, item: int, step: int, size: int) -> NDArray[np.float32]:
    """Return the noise of one step, float32 (size,)."""
    rng = np.random.Generator(np.random.Philox(key=[seed, (item << 20) + step]))
    uniform = rng.random(size, dtype=np.float32)
    return np.asarray(-np.log(-np.log(np.clip(uniform, 1e-7, 1 - 6e-8))), np.float32)


def choose(
    logits: NDArray[np.floating], temperature: float, seed: int, item: int, step: int
) -> int:
    """Return the token drawn from logits (vocabulary,) at `temperature`; the likeliest at 0."""
    if temperature == 0:
        return int(np.argmax(logits))
    places = nucleus(logits, temperature)
    noise = gumbel(seed, item, step, len(logits))[places]
    return int(places[np.argmax(logits[places] / temperature + noise)])


def nucleus(logits: NDArray[np.floating], temperature: float) -> NDArray[np.intp]:
    """Return the smallest set of tokens with `TOP_P` of the mass, likeliest first."""
    x = np.asarray(logits, np.float64) / temperature
    total = np.exp(x - x.max()).sum()
    count = min(FIRST, len(x))
    while True:
        places = np.argpartition(-x, count - 1)[:count]
        # Ties are broken by the token's number, not by the order that the partition left.
        places = places[np.lexsort((places, -x[places]))]
        mass = np.cumsum(np.exp(x[places] - x.max())) / total
        if mass[-1] >= TOP_P or count == len(x):
            return places[: int(np.searchsorted(mass, TOP_P)) + 1]
        count = min(len(x), count * 16)
