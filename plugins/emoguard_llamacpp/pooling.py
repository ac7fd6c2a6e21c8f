"""Computes mean residuals of many texts, several at once as sequences of one context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.probe.residuals import Pool
from emoguard_llamacpp import ctypes_llama
from emoguard_llamacpp.tap import Tap

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 512
"""Tokens per forward pass."""

GROUP = 256
"""Tokens of the texts that share a context.

llama.cpp attends over all that a context holds, in steps of so many cells, and masks the rest.
Larger groups cost more than they save (SmolLM2 on one core: 173, 159 and 149 tokens/s with 256, 512
and 1,024), and 4-bit models round otherwise than text by text.
"""

Take = Callable[[int], Iterator["NDArray[np.float32]"]]
"""From the number of tokens in the last pass to the rows (tokens, hidden) of each layer."""


@contextmanager
def native(
    llm: Any, layers: Sequence[int], hidden: int, *, texts: int, tokens: int
) -> Iterator[Pool]:
    """Open a pass that reads llama.cpp's own copies of the block inputs."""
    with ctypes_llama.own_context(llm, tokens, CHUNK, sequences=texts) as context:
        for layer in layers:
            ctypes_llama.keep_layer_input(context, layer + 1, on=True)

        def take(rows: int) -> Iterator[NDArray[np.float32]]:
            for layer in layers:
                yield ctypes_llama.layer_input_view(context, layer + 1, rows, hidden)

        yield _pool(context, take, (len(layers), hidden))


@contextmanager
def callback(
    llm: Any, layers: Sequence[int], hidden: int, *, texts: int, tokens: int
) -> Iterator[Pool]:
    """Open a pass that reads through the evaluation callback."""
    tap = Tap(layers, hidden)
    with ctypes_llama.own_context(llm, tokens, CHUNK, tap.answer, texts) as context:
        yield _pool(context, tap.take, (len(layers), hidden))


def _pool(context: Any, take: Take, shape: tuple[int, int]) -> Pool:
    def run(batch: Sequence[Sequence[int]], starts: Sequence[int]) -> NDArray[np.float32]:
        means = np.zeros((len(batch), *shape), np.float32)
        for group in groups(batch):
            ctypes_llama.forget(context)
            _add(context, take, batch[group], starts[group], means[group])
        return means

    return run


def groups(batch: Sequence[Sequence[int]]) -> Iterator[slice]:
    """Yield runs of texts of at most `GROUP` tokens together; a longer text is its own."""
    start = tokens = 0
    for n, ids in enumerate(batch):
        if n > start and tokens + len(ids) > GROUP:
            yield slice(start, n)
            start, tokens = n, 0
        tokens += len(ids)
    yield slice(start, len(batch))


def _add(
    context: Any,
    take: Take,
    group: Sequence[Sequence[int]],
    starts: Sequence[int],
    means: NDArray[np.float32],
) -> None:
    """Run a group of texts and add its means to `means` (texts, layers, hidden), which is zero."""
    rows = [(t, p, n) for n, ids in enumerate(group) for p, t in enumerate(ids)]
    weights = _weights(group, starts)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        ctypes_llama.decode_texts(context, chunk)
        for n, residuals in enumerate(take(len(chunk))):
            means[:, n] += weights[:, start : start + CHUNK] @ residuals


def _weights(batch: Sequence[Sequence[int]], starts: Sequence[int]) -> NDArray[np.float32]:
    """Return the share of each row, texts one after the other, in each text's mean."""
    weights = np.zeros((len(batch), sum(map(len, batch))), np.float32)
    offset = 0
    for own, ids, start in zip(weights, batch, starts, strict=True):
        own[offset + start : offset + len(ids)] = 1 / (len(ids) - start)
        offset += len(ids)
    return weights
