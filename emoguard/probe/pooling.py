"""Computes mean residuals of many texts through any door, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from emoguard.probe.residuals import Pooling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.residuals import Pool, Residuals

BATCH = 1024
"""Tokens of a batch, padding included; a longer text is a batch of its own."""

MOST = 64
"""Texts of a batch."""

EMBEDDINGS = -1
"""The layer before the first: the input of block 0, which depends on words and nothing else."""


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the numbers of texts that run together: of similar length, to save padding.

    The order of batches is shuffled, the same way every time: long and short ones alternate, so
    that the time remaining is estimated well and the most memory is taken early.
    """
    grouped: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        full = not grouped or len(grouped[-1]) == MOST
        if full or (len(grouped[-1]) + 1) * lengths[n] > BATCH:
            grouped.append([])
        grouped[-1].append(n)
    return [grouped[n] for n in np.random.default_rng(0).permutation(len(grouped))]


@contextmanager
def pooling(door: Residuals, layers: Sequence[int], longest: int) -> Iterator[Pool]:
    """Open a pass over batches of texts of at most `longest` tokens, through any door."""
    with _open(door, layers, max(BATCH, longest)) as run:
        yield run


def _open(door: Residuals, layers: Sequence[int], tokens: int) -> AbstractContextManager[Pool]:
    if isinstance(door, Pooling):
        return door.pooling(layers, texts=MOST, tokens=tokens)
    return _one_by_one(door, layers)


@contextmanager
def _one_by_one(door: Residuals, layers: Sequence[int]) -> Iterator[Pool]:
    """Pool through a door that runs one text at a time; it has no embeddings: they are NaN."""
    blocks = [layer for layer in layers if layer != EMBEDDINGS]

    def run(batch: Sequence[Sequence[int]], starts: Sequence[int]) -> NDArray[np.float32]:
        out = np.full((len(batch), len(layers), door.identity.hidden), np.nan, np.float32)
        for means, token_ids, start in zip(out, batch, starts, strict=True):
            residuals = door.residuals(token_ids, blocks)[:, start:]
            means[len(layers) - len(blocks) :] = residuals.mean(axis=1, dtype=np.float64)
        return out

    yield run
