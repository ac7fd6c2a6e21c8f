"""Chooses the kernel that steers on a device: one launch per block if it equals `intervene`."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import torch

from emoguard.steering.intervention import Intervention, Steering
from emoguard.steering.plan import Plan
from emoguard_torch.precision import full_matmul
from emoguard_torch.steer import MOVES, Kernel, Layer, gather, intervene

log = logging.getLogger("emoguard")


@cache
def fused_for(device: torch.device) -> Kernel | None:
    """Return the kernel that equals `intervene` in one launch on `device`, None if there is none.

    Whether it does the same is tried once per device, on every dtype.
    """
    if device.type != "cuda":
        return None
    try:
        from emoguard_torch.fused import intervene as fused  # noqa: PLC0415

        if agree(fused, intervene, device):
            return Launch(fused)
        why = "the one kernel gives something else here"
    except Exception as error:  # noqa: BLE001  (no triton, no C compiler, an old GPU)
        why = f"{type(error).__name__}: {error}"
    log.warning("steering takes many launches per block on %s: %s", device, why)
    return None


class Launch:
    """Runs a kernel as long as it launches, `intervene` after its first failure.

    A kernel that compiled for one shape may fail for another: shared memory, registers.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel: Kernel | None = kernel

    def __call__(self, h: torch.Tensor, layer: Layer, act: torch.Tensor) -> torch.Tensor:
        """See `intervene`."""
        kernel = self._kernel
        if kernel is None:
            return intervene(h, layer, act)
        try:
            return kernel(h, layer, act)
        except Exception as error:  # noqa: BLE001  (whatever the compiler or the driver says)
            why = f"{type(error).__name__}: {error}"
        self._kernel = None
        log.warning("steering takes many launches per block on %s from here on: %s", h.device, why)
        return intervene(h, layer, act)


TRIALS = (
    (torch.float32, 3),
    (torch.float16, 3),
    (torch.bfloat16, 3),
    (torch.bfloat16, 1),
    (torch.float32, 0),
)
"""Dtypes and numbers of limits a kernel is tried on: each is compiled anew, so not all pairs."""

HIDDEN = 96
"""Length of the residuals that kernels are tried on: no power of 2."""


def agree(one: Kernel, other: Kernel, device: torch.device) -> bool:
    """Return whether two ways to intervene give the same for a few random plans on `device`.

    `other` multiplies matrices in full precision, whatever the process does by itself.
    """
    rng = np.random.default_rng(0)
    return all(_agree(one, other, device, *trial, rng) for trial in TRIALS)


def _agree(  # noqa: PLR0917  (one call, just above)
    one: Kernel,
    other: Kernel,
    device: torch.device,
    dtype: torch.dtype,
    limits: int,
    rng: np.random.Generator,
) -> bool:
    plans = _random_plans(limits, rng)
    h = torch.tensor(rng.normal(size=(len(plans), 2, HIDDEN)), device=device).to(dtype)
    h[-1, -1, 0] = torch.inf  # where a fault is marked
    some = torch.tensor(rng.random((len(plans), 2)) < 0.5, device=device)

    def attempt(way: Kernel) -> tuple[torch.Tensor, torch.Tensor]:
        moves = torch.full((len(plans), MOVES), torch.nan, device=device)
        layer = gather(plans, 0, device, moves)
        # Of all positions, and each for itself, as where prompts are steered.
        act = layer.rows if limits > 1 else layer.rows & some
        return way(h, layer, act).float(), moves

    ours = attempt(one)
    with full_matmul():  # in all of the process, so not while a kernel is compiled
        theirs = attempt(other)
    near = max(1e-4, 4 * torch.finfo(dtype).eps)  # sums are taken in another order
    both = zip(ours, theirs, strict=True)
    return all(torch.allclose(our, their, rtol=near, atol=near) for our, their in both)


def _random_plans(limits: int, rng: np.random.Generator) -> list[Steering | None]:
    """Return plans of twelve rows, the first None, all with the same `limits` directions."""
    directions = rng.normal(size=(limits, HIDDEN)) + rng.normal(size=HIDDEN)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gram = (directions @ directions.T).astype(np.float32)
    plans: list[Steering | None] = [None]
    for row in range(1, 12):
        low, high = np.sort(rng.normal(size=(2, limits)), axis=0).astype(np.float32)
        low[rng.random(limits) < 0.3], high[rng.random(limits) < 0.3] = -np.inf, np.inf
        shift = (rng.normal(size=HIDDEN) * (row % 3) / 9).astype(np.float32)
        budget = 0.05 * (1 + row % 4)
        at = Intervention(0, shift, directions.astype(np.float32), low, high, gram, budget)
        plans.append(Steering(Plan(), budget, (at,)))
    return plans
