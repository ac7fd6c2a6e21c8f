"""Checks that hooks sit at the layers a probe was fitted at, in any quantisation of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.advice import fit_command
from emoguard.errors import EmoGuardError
from emoguard.probe.residuals import Residuals

if TYPE_CHECKING:
    from numpy.typing import NDArray

WITNESS_TEXT = (
    "The ferry leaves at nine from the north pier; gulls wait on the railing, maps cost two."
)

UNRELATED = 0.5
"""A layer below this cosine to all its neighbours is another model's: Q2_K leaves .96."""


@dataclass(frozen=True, eq=False)
class Witness:
    """A fixed text and the fitted model's residuals on it.

    `token_ids` has shape (tokens,), BOS first where the model uses one. `residuals` holds, for each
    probed layer N, the centred residuals of N-1, N and N+1 without the first token: float32 of
    shape (layers, 3, tokens - 1, hidden), each of unit Frobenius norm; a layer the model does not
    have is all zero.
    """

    token_ids: NDArray[np.int64]
    residuals: NDArray[np.float32]

    @classmethod
    def record(cls, door: Residuals, layers: Sequence[int]) -> Witness:
        """Run the fixed text through `door` and keep the residuals around each probed layer."""
        token_ids = door.tokenize(WITNESS_TEXT)
        around = [range(n - 1, n + 2) for n in layers]
        # The last block is never read, so it is no candidate either.
        wanted = sorted({n for three in around for n in three if 0 <= n < door.identity.layers - 1})
        centred = dict(zip(wanted, _centred(door.residuals(token_ids, wanted)), strict=True))
        empty = np.zeros((len(token_ids) - 1, door.identity.hidden), np.float32)
        stacked = np.array([[centred.get(n, empty) for n in three] for three in around], np.float32)
        return cls(np.asarray(token_ids, np.int64), stacked)

    def cosines(self, door: Residuals, layers: Sequence[int]) -> NDArray[np.float64]:
        """Return the similarity of each hooked layer to its stored neighbours N-1, N and N+1.

        Shape (layers, 3), in [-1, 1]; -inf for a neighbour the model does not have.

        Raises:
            EmoGuardError: when the model's residuals hold NaN or infinity.

        """
        residuals = _centred(door.residuals(self.token_ids.tolist(), layers))
        if not np.all(np.isfinite(residuals)):
            raise EmoGuardError(
                f"the residuals of {door.identity.name} hold NaN or infinity on a plain sentence: "
                "load the model in another dtype"
            )
        cosines = np.einsum("nkth,nth->nk", self.residuals, residuals, dtype=np.float64)
        return np.where(self.residuals.any(axis=(2, 3)), cosines, -np.inf)

    def check(self, door: Residuals, layers: Sequence[int]) -> None:
        """Refuse if any hooked layer resembles another layer more than its own.

        The nearest is found among neighbours and never by a threshold: quantisation moves a
        residual further from its original than neighbouring layers lie apart in some models.

        Raises:
            EmoGuardError: the message names the layers and their apparent places.

        """
        wrong = []
        for layer, cosines in zip(layers, self.cosines(door, layers), strict=True):
            offset = int(cosines.argmax()) - 1
            if cosines.max() < UNRELATED:
                wrong.append(f"layer {layer} reads like none it was fitted near")
            elif offset:
                wrong.append(f"layer {layer} reads like layer {layer + offset}")
        if wrong:
            raise EmoGuardError(
                f"the hook on {door.identity.name} does not sit where the probe was fitted: "
                f"{', '.join(wrong)}; the probe was made for another model or another layer "
                f"numbering: make one for this model with {fit_command()}"
            )


def _centred(residuals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Drop the first token (BOS is an attention sink), centre over tokens, scale to unit norm."""
    body = residuals[:, 1:].astype(np.float64)
    body -= body.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(body, axis=(1, 2), keepdims=True)
    return (body / np.where(norms > 0, norms, 1.0)).astype(np.float32)
