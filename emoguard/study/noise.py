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

FIRST = (1e-2, 1e-4)
"""Odds against the likeliest of tokens to sort before all others: a nucleus rarely needs more."""


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
    # Powers in float32, sums in float64: exact to 1e-7, in a tenth of the time.
    x = np.asarray(logits, np.float32)
    odds = np.exp((x - x.max()) / np.float32(temperature))
    total = odds.sum(dtype=np.float64)
    for least in (*FIRST, 0.0):
        places = np.flatnonzero(odds >= least)
        # Ties are broken by the token's number.
        places = places[np.lexsort((places, -x[places]))]
        mass = np.cumsum(odds[places], dtype=np.float64) / total
        if mass[-1] >= TOP_P:
            break
    return places[: int(np.searchsorted(mass, TOP_P)) + 1]
