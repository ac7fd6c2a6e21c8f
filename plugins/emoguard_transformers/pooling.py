"""Mean residuals of many texts: padded on the right, run together, pooled on the device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emoguard.protocols import Pool
from emoguard_transformers import compiled
from emoguard_transformers.blocks import find_blocks, find_body, hidden_state

if TYPE_CHECKING:
    from numpy.typing import NDArray


@contextmanager
def pooling(model: Any, layers: Sequence[int], device: torch.device) -> Iterator[Pool]:
    """Open a pass; `device` is where token ids go.

    No attention mask is given: padding stands on the right and attention looks to the left, so no
    token of a text ever sees it, and positions are those of the text alone.
    """
    body, blocks = find_body(model), find_blocks(model)
    means = _Means(threading.get_ident())
    with ExitStack() as stack:
        for layer in layers:
            if layer == -1:
                hook = blocks[0].register_forward_pre_hook(means.before, with_kwargs=True)
            else:
                hook = blocks[layer].register_forward_hook(means.after(layer))
            stack.callback(hook.remove)
        stack.enter_context(compiled.eager())

        def run(batch: Sequence[Sequence[int]], starts: Sequence[int]) -> NDArray[np.float32]:
            longest = max(map(len, batch))
            # Any token pads; its own last one is in every vocabulary.
            ids = [[*row, *[row[-1]] * (longest - len(row))] for row in batch]
            means.weights = _weights(batch, starts).to(device)
            with torch.no_grad():
                body(input_ids=torch.tensor(ids, device=device), use_cache=False)
            return np.stack([means.found.pop(n).cpu().numpy() for n in layers], axis=1)

        yield run


class _Means:
    """Takes what blocks return, and keeps the mean of each text, float32 (texts, hidden)."""

    def __init__(self, thread: int) -> None:
        self.weights: torch.Tensor
        self.found: dict[int, torch.Tensor] = {}
        self._thread = thread

    def before(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take what block 0 receives: a forward pre-hook."""
        self._keep(-1, args[0] if args else kwargs["hidden_states"])

    def after(self, layer: int) -> Any:
        """Return the forward hook of a block."""

        def hook(_module: Any, _args: Any, output: Any) -> None:
            self._keep(layer, hidden_state(output))

        return hook

    def _keep(self, layer: int, state: torch.Tensor) -> None:
        # Another thread may be generating on the same model.
        if threading.get_ident() == self._thread:
            weights = self.weights.to(state.device)
            self.found[layer] = torch.bmm(weights, state.float()).squeeze(1)


def _weights(batch: Sequence[Sequence[int]], starts: Sequence[int]) -> torch.Tensor:
    """Return the share of each token in its text's mean, float32 (texts, 1, tokens); padding 0."""
    weights = torch.zeros(len(batch), 1, max(map(len, batch)))
    for own, row, start in zip(weights, batch, starts, strict=True):
        own[0, start : len(row)] = 1 / (len(row) - start)
    return weights
