"""Tracks the prompt tokens that each sequence of a batch attends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoguard.runtime.attention import UNKNOWN, sink_length


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of a batch of `length` positions, padding and the caller's cache included.

    `mask` (rows, length) marks the positions attended to, None all of them. `inputs` are those of
    `generate`: token ids (prompts, tokens), or embeddings with a third axis. All stay on their
    device until used; each prompt stands for one or more successive rows.
    """

    length: int
    mask: Any
    inputs: Any

    @classmethod
    def seen(cls, mapping: Mapping[str, Any]) -> Prompts | None:
        """Return the prompts of a `generate` from its call for logits processors.

        There the mask is complete: made up if the caller gave none, and with a row for each
        sequence to return. None if this Transformers makes the call in another way.
        """
        inputs = mapping.get("encoder_input_ids")
        if inputs is None:
            return None
        mask = (mapping.get("model_kwargs") or {}).get("attention_mask")
        if mask is not None and mask.ndim != 2:
            mask = None
        length = inputs.shape[1]
        if mask is not None:
            length = mask.shape[1]
        else:  # dropped, because it masked nothing
            length = getattr(mapping.get("generation_config"), "_mask_length", None) or length
        return cls(max(length, inputs.shape[1]), mask, inputs)

    def tokens(self, rows: int) -> list[list[int]]:
        """Return the tokens that each of `rows` rows attends to, in order, never none.

        `UNKNOWN` stands for positions of a cache. Embeddings are only compared with the first of
        their row: those equal to it have one negative id, all others another.
        """
        whole, seen = self._whole(rows), self._seen(rows)
        return [ids[at].tolist() or [UNKNOWN] for ids, at in zip(whole, seen, strict=True)]

    def leads(self, tokens: Sequence[Sequence[int]]) -> list[int]:
        """Return how many leading positions of each row are padding or an attention sink."""
        places = [np.flatnonzero(at) for at in self._seen(len(tokens))]
        return [
            int(place[sink_length(row) - 1]) + 1 if len(place) else self.length
            for place, row in zip(places, tokens, strict=True)
        ]

    def _whole(self, rows: int) -> NDArray[np.int64]:
        """Return ids of all positions, (rows, length)."""
        each = rows // len(self.inputs)
        ids = self.inputs if self.inputs.ndim == 2 else self._told_apart(each)
        ids = ids.cpu().numpy()
        cached = np.full((len(ids), self.length - ids.shape[1]), UNKNOWN)
        return np.repeat(np.concatenate([cached, ids], axis=1), each, axis=0)

    def _told_apart(self, each: int) -> Any:
        """Return an id for each embedding, (prompts, tokens); `each` prompt has so many rows."""
        embeds = self.inputs
        first = embeds[:, :1]
        if self.mask is not None:
            place = self.mask[::each, -embeds.shape[1] :].argmax(dim=1)
            first = embeds.take_along_dim(place.to(embeds.device)[:, None, None], dim=1)
        return UNKNOWN - (embeds != first).any(dim=-1).long()

    def _seen(self, rows: int) -> NDArray[np.bool_]:
        if self.mask is None:
            return np.ones((rows, self.length), np.bool_)
        seen: NDArray[np.bool_] = self.mask.cpu().numpy() > 0
        return seen
