"""Defines the offline door into a runtime: residuals of a given text, outside any generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity


@runtime_checkable
class Residuals(Protocol):
    """Reads residuals of a given text.

    It reads at the same point of the model as the live hook, so that a probe reads the residuals it
    was fitted on.
    """

    identity: ModelIdentity
    """The identity of the model file."""

    @property
    def backend(self) -> str:
        """Return the runtime and the path into it, as reports name them."""
        ...

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids; `special` adds BOS as the model's own tokenizer would."""
        ...

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the outputs of decoder blocks `layers`, float32 (layers, tokens, hidden)."""
        ...


Pool = Callable[[Sequence[Sequence[int]], Sequence[int]], NDArray[np.float32]]
"""Takes a batch of texts as token ids, and for each the position its mean starts at; returns the
mean residuals, float32 (texts, layers, hidden), as each text alone would give."""


def check_finite(door: Residuals, rows: NDArray[np.floating], what: str) -> None:
    """Raise if rows that were read through `door` are not finite; `what` they are of.

    Raises:
        EmoGuardError: some are NaN or infinite.

    """
    if not np.isfinite(rows).all():
        raise EmoGuardError(
            f"residuals of {door.identity.name} on {what} are NaN or infinite: open the model in "
            "another dtype, such as bfloat16 or float32"
        )


@runtime_checkable
class Pooling(Protocol):
    """An optional capability of a door: mean residuals of many texts in one pass."""

    def pooling(
        self, layers: Sequence[int], *, texts: int, tokens: int
    ) -> AbstractContextManager[Pool]:
        """Open a pass over batches of at most `texts` texts and `tokens` tokens.

        Layer -1 is the input of block 0: the embeddings.
        """
        ...
