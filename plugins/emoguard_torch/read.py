"""Reads one block's output on the device: the body of a hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from emoguard_torch.precision import uncast
from emoguard_torch.tensors import hidden_state

if TYPE_CHECKING:
    from emoguard.probe.probe import Readout


@dataclass(frozen=True)
class Weights:
    """One layer of a readout as device tensors: `matrix` (hidden, labels), centre and shift."""

    matrix: torch.Tensor
    centre: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, readout: Readout, index: int, device: Any) -> Weights:
        """Copy layer number `index` of `readout` to `device`."""
        parts = (readout.matrix[index].T, readout.centre[index], readout.shift[index])
        return cls(*(torch.tensor(part, dtype=torch.float32, device=device) for part in parts))


def read(
    pending: torch.Tensor, weights: Weights, output: Any, places: torch.Tensor | None = None
) -> None:
    """Write one layer's share of z into `pending` (rows, labels).

    Equals `emoguard.probe.probe.Readout.part` on the last position of each sequence: the one the
    next token is chosen from, also in a left-padded batch and in the last chunk of a chunked
    prefill. Where one packed row holds all sequences, `places` (rows,) are those positions in it.
    """
    whole = hidden_state(output)
    last = whole[:, -1] if places is None else whole[0, places.to(whole.device)]
    z = project(weights, last)
    if z.shape != pending.shape:
        raise ValueError(f"wanted a reading of shape {tuple(pending.shape)}, got {tuple(z.shape)}")
    pending.copy_(z)


def project(weights: Weights, h: torch.Tensor) -> torch.Tensor:
    """Return one layer's share of z (rows, labels) for residuals (rows, hidden)."""
    wide = h.detach().float()
    with uncast(wide.device):
        return torch.addmm(weights.shift, wide - weights.centre, weights.matrix)
