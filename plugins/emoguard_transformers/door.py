"""Reads residuals of a given text in one forward pass outside any generation: the offline door."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from emoguard_torch import compiled
from emoguard_torch.tensors import hidden_state

from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.residuals import Pool
from emoguard_transformers import pooling
from emoguard_transformers.blocks import find_blocks, find_body
from emoguard_transformers.identity import identify

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Door:
    """Residuals of texts run through `model`, read at the outputs of its decoder blocks.

    `identity` is the model's, if the caller has looked already.
    """

    backend = "transformers"

    def __init__(
        self, model: Any, tokenizer: Any = None, identity: ModelIdentity | None = None
    ) -> None:
        self.identity = identity or identify(model, tokenizer)
        self._model = model
        self._tokenizer = tokenizer
        self._body = find_body(model)
        self._blocks = find_blocks(model)
        self.devices: dict[int, torch.device] = {}

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids; `special` adds BOS as the tokenizer does by default."""
        if self._tokenizer is None:
            raise EmoGuardError(
                f"{self.identity.name} needs a tokenizer to read text: pass tokenizer="
            )
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the outputs of decoder blocks `layers`, float32 (layers, tokens, hidden).

        Raises:
            EmoGuardError: no tokens, ids outside the vocabulary, or layers the model lacks.

        """
        self._check(token_ids, layers)
        states: dict[int, torch.Tensor] = {}
        ids = torch.tensor([list(token_ids)], device=self._device())
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(self._captured(layer, states))
            stack.enter_context(torch.no_grad())
            stack.enter_context(compiled.eager())
            self._body(input_ids=ids, use_cache=False)  # logits are not needed
        # Weights may be kept elsewhere than where the block runs (offloading).
        self.devices |= {layer: state.device for layer, state in states.items()}
        return np.stack([states[layer].float().cpu().numpy() for layer in layers])

    def pooling(
        self, layers: Sequence[int], *, texts: int, tokens: int
    ) -> AbstractContextManager[Pool]:
        """Open a pass over batches of texts; see `emoguard.probe.residuals.Pooling`."""
        self._check_layers([layer for layer in layers if layer != -1] or [0])
        return pooling.pooling(
            self._model, layers, self.identity.hidden, self._device(), texts=texts
        )

    def _device(self) -> torch.device:
        """Return the device of the token ids."""
        device: torch.device = self._model.device
        # Offloaded weights are on no device until they are used; accelerate then moves the input
        # itself.
        return torch.device("cpu") if device.type == "meta" else device

    def _captured(self, layer: int, states: dict[int, torch.Tensor]) -> Any:
        thread = threading.get_ident()

        def capture(_module: Any, _args: Any, output: Any) -> None:
            # Another thread may be generating on the same model.
            if threading.get_ident() == thread:
                states[layer] = hidden_state(output)[0].detach()

        return self._blocks[layer].register_forward_hook(capture)

    def _check(self, token_ids: Sequence[int], layers: Sequence[int]) -> None:
        if not len(token_ids):
            raise EmoGuardError("an empty text has no residuals: give at least one token")
        self._check_layers(layers)
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        if min(token_ids) < 0 or max(token_ids) >= vocabulary:
            raise EmoGuardError(
                f"token ids must lie in [0, {vocabulary - 1}], got {min(token_ids)} to "
                f"{max(token_ids)}: they are another model's"
            )

    def _check_layers(self, layers: Sequence[int]) -> None:
        if not layers or min(layers) < 0 or max(layers) > self.identity.layers - 2:
            raise EmoGuardError(
                f"layers must lie in [0, {self.identity.layers - 2}] (the last block is never "
                f"read), got {tuple(layers)}"
            )
