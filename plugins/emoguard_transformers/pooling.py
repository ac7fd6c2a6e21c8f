"""Computes mean residuals of many texts, padded on the right and pooled on the device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from emoguard_torch import compiled
from emoguard_torch.tensors import hidden_state

from emoguard.probe.residuals import Pool
from emoguard_transformers.blocks import find_blocks, find_body

if TYPE_CHECKING:
    from numpy.typing import NDArray


@contextmanager
def pooling(
    model: Any, layers: Sequence[int], hidden: int, device: torch.device, *, texts: int
) -> Iterator[Pool]:
    """Open a pass over batches of at most `texts` texts; `device` is that of the token ids.

    No attention mask is given: padding stands on the right and attention looks to the left, so no
    token of a text ever sees it, and positions are those of the text alone.
    """
    body, blocks = find_body(model), find_blocks(model)
    means = _Means(torch.empty(texts, len(layers), hidden, device=device))
    with ExitStack() as stack:
        for n, layer in enumerate(layers):
            if layer == -1:
                hook = blocks[0].register_forward_pre_hook(means.before(n), with_kwargs=True)
            else:
                hook = blocks[layer].register_forward_hook(means.after(n))
            stack.callback(hook.remove)
        stack.enter_context(compiled.eager())

        def run(batch: Sequence[Sequence[int]], starts: Sequence[int]) -> NDArray[np.float32]:
            longest = max(map(len, batch))
            # Any token pads; its own last one is in every vocabulary.
            ids = [[*row, *[row[-1]] * (longest - len(row))] for row in batch]
            means.weights, means.seen = _weights(batch, starts).to(device), 0
            with torch.no_grad():
                body(input_ids=torch.tensor(ids, device=device), use_cache=False)
            assert means.seen == len(layers), "a block did not run"
            pooled: NDArray[np.float32] = means.kept[: len(batch)].cpu().numpy().copy()
            return pooled

        yield run


class _Means:
    """Takes the outputs of blocks and keeps the mean of each text.

    `kept` is float32 (texts, layers, hidden), the same memory for every batch: small results that
    outlive their layer would fragment the heap, which then grows from batch to batch.
    """

    def __init__(self, kept: torch.Tensor) -> None:
        self.kept = kept
        self.weights: torch.Tensor
        self.seen = 0
        self._thread = threading.get_ident()

    def before(self, place: int) -> Any:
        """Return a forward pre-hook for the block whose input is kept at `place`."""

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(place, args[0] if args else kwargs["hidden_states"])

        return hook

    def after(self, place: int) -> Any:
        """Return a forward hook for the block whose output is kept at `place`."""

        def hook(_module: Any, _args: Any, output: Any) -> None:
            self._keep(place, hidden_state(output))

        return hook

    def _keep(self, place: int, state: torch.Tensor) -> None:
        # Another thread may be generating on the same model.
        if threading.get_ident() == self._thread:
            means = torch.bmm(self.weights.to(state.device), state.float()).squeeze(1)
            self.kept[: len(means), place] = means
            self.seen += 1


def _weights(batch: Sequence[Sequence[int]], starts: Sequence[int]) -> torch.Tensor:
    """Return the share of each token in its text's mean, float32 (texts, 1, tokens); padding 0."""
    weights = torch.zeros(len(batch), 1, max(map(len, batch)))
    for own, row, start in zip(weights, batch, starts, strict=True):
        own[0, start : len(row)] = 1 / (len(row) - start)
    return weights
