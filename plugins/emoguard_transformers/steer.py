"""Bounded steering on the device: `emoguard.steering` in torch, one plan per row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emoguard.steering import SHORTEST, SINGLE, SWEEPS, TINY, Intervention, limit_inset
from emoguard_transformers.blocks import hidden_state

if TYPE_CHECKING:
    from emoguard.steering import Steering

MOVES = 3
"""What is kept per token: dose, clipped, faulted."""


@dataclass
class Layer:
    """The interventions of a batch at one layer, as device tensors.

    `shift` (rows, 1, hidden) and `budget` (rows, 1) are each row's own; `directions` (limits,
    hidden) and their `gram` are those of all rows together, with `low` and `high` (rows, 1, limits)
    infinite where a row has no such limit. `rows` (rows, 1) says which rows act here, `prompt`
    (rows, 1) which of them on their prompts, too; None when none does. `moves` (rows, 3) is where
    the last position's dose, clipped and faulted are written. `waiting` counts the positions of a
    chunked prefill that are still to come; None in any other.
    """

    shift: torch.Tensor
    directions: torch.Tensor
    gram: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    budget: torch.Tensor
    rows: torch.Tensor
    prompt: torch.Tensor | None
    moves: torch.Tensor
    waiting: torch.Tensor | None = None


@dataclass
class Batch:
    """What is in force during one `generate`.

    `layers` maps the number of a probed layer to its interventions; `moves` (layers, rows, 3) is
    what they write.
    """

    layers: dict[int, Layer]
    moves: torch.Tensor


def acting(plans: Sequence[Steering | None], probed: Sequence[int]) -> list[int]:
    """Return the numbers of the probed layers at which any plan acts."""
    layers = {layer for plan in plans if plan for layer in plan.layers}
    return [index for index, layer in enumerate(probed) if layer in layers]


def gather(
    plans: Sequence[Steering | None],
    layer: int,
    device: Any,
    moves: torch.Tensor,
    chunked: int | None = None,
) -> Layer:
    """Return the interventions of a batch at decoder block `layer`, on `device`.

    `chunked` is the number of positions of a prefill that comes in chunks.
    """
    rows = [_at(plan, layer) for plan in plans]
    hidden = next(len(row.shift) for row in rows if row)
    columns = {d.tobytes(): d for row in rows if row for d in row.directions}
    shift = np.zeros((len(rows), 1, hidden), np.float32)
    budget = np.zeros((len(rows), 1), np.float32)
    low = np.full((len(rows), 1, len(columns)), -np.inf, np.float32)
    high = -low
    for n, row in enumerate(rows):
        if row is None:
            continue
        shift[n, 0], budget[n, 0] = row.shift, row.budget
        for k, direction in enumerate(row.directions):
            column = list(columns).index(direction.tobytes())
            low[n, 0, column], high[n, 0, column] = row.low[k], row.high[k]
    directions = np.array([*columns.values()], np.float32).reshape(len(columns), hidden)
    prompt = [[bool(plan and plan.plan.prompt)] for plan in plans]
    # Never inference tensors: compiled code may be made in one mode and run in the other.
    with torch.inference_mode(mode=False):
        return Layer(
            shift=torch.tensor(shift, device=device),
            directions=torch.tensor(directions, device=device),
            gram=torch.tensor(directions @ directions.T, device=device),
            low=torch.tensor(low, device=device),
            high=torch.tensor(high, device=device),
            budget=torch.tensor(budget, device=device),
            rows=torch.tensor([[row is not None] for row in rows], device=device),
            prompt=torch.tensor(prompt, device=device) if np.any(prompt) else None,
            moves=moves,
            waiting=None if chunked is None else torch.tensor(chunked, device=device),
        )


def _at(plan: Steering | None, layer: int) -> Intervention | None:
    found = plan.interventions if plan else ()
    return next((i for i in found if i.layer == layer), None)


def steer(layer: Layer, output: Any, steps: int) -> Any:
    """Return a block's output with the positions that are to be steered moved.

    `steps` is how many tokens were chosen so far. Steered are the position the next token is chosen
    from and, where no cache keeps them, those of the tokens before it; the prompt only in rows that
    ask for it.
    """
    whole = hidden_state(output)
    positions = whole.shape[1]
    count = 1 if positions == 1 else min(positions, steps + 1)
    act = layer.rows
    if layer.waiting is not None:  # the last position of a chunk is one of the prompt's own
        layer.waiting.sub_(positions)
        act = act & (layer.waiting <= 0)
    if layer.prompt is not None:
        place = torch.arange(positions, device=act.device)
        act = (act & (place >= positions - count)) | (layer.rows & layer.prompt)
        count = positions
    if count == positions:
        moved = intervene(whole, layer, act)
    else:
        last = intervene(whole[:, positions - count :], layer, act)
        moved = torch.cat([whole[:, : positions - count], last], dim=1)
    return (moved, *output[1:]) if isinstance(output, tuple) else moved


def intervene(h: torch.Tensor, layer: Layer, act: torch.Tensor) -> torch.Tensor:
    """Return residuals (rows, positions, hidden) moved within the bound where `act` says so.

    Equals `emoguard.steering.intervene` row by row; where nothing is to be done every bit is kept.
    `act` is (rows, 1) or (rows, positions). Writes the last position's dose, clipped and faulted.
    """
    wide = h.detach().float()
    unit, tiny = rounding(h.dtype)
    length = torch.linalg.vector_norm(wide, dim=-1)
    step = layer.shift.expand_as(wide)
    missed = None
    if len(layer.directions):
        inset = limit_inset(h.shape[-1], unit) * length[..., None]
        along = (wide + step) @ layer.directions.T
        steps, missed = limit(along, layer, inset)
        step = step + steps @ layer.directions
    size = torch.linalg.vector_norm(step, dim=-1)
    most = allowance(length, layer.budget, h.shape[-1], unit, tiny)
    share = (most / size.clamp_min(TINY)).clamp_max(1)
    moved = (wide + step * share[..., None]).to(h.dtype)
    sound = length.isfinite() & size.isfinite() & moved.isfinite().all(dim=-1)
    acts = act & sound & (size > 0) & (most > 0)
    dose = torch.linalg.vector_norm(moved.float() - wide, dim=-1) / length
    short = (size > most) if missed is None else (size > most) | missed
    marks = (torch.where(acts, dose, 0), act & sound & short, act & ~sound)
    for place, mark in zip(layer.moves.unbind(-1), marks, strict=True):
        place.copy_(mark[:, -1])
    return torch.where(acts[..., None], moved, h)


def limit(
    along: torch.Tensor, layer: Layer, inset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return λ (rows, positions, limits) and where a limit is missed (rows, positions).

    See `emoguard.steering.limit`. Only on a CPU, where looking costs nothing, is the work left out
    when there is none.
    """
    inside = torch.minimum(inset, (layer.high - layer.low) / 2)
    least, most = layer.low + inside, layer.high - inside
    fine = (least <= along) & (along <= most)
    may_look = along.device.type == "cpu" and not torch.compiler.is_compiling()
    if may_look and bool(fine.all()):
        return torch.zeros_like(along), fine.new_zeros(fine.shape[:-1])
    limits = len(layer.gram)
    columns = list(torch.zeros_like(along).unbind(-1))
    for _ in range(SWEEPS if limits > 1 else 1):
        for i in range(limits):
            others = [columns[k] * layer.gram[i, k] for k in range(limits) if k != i]
            without = sum(others, along[..., i])
            columns[i] = without.clamp(least[..., i], most[..., i]) - without
    steps = torch.stack(columns, dim=-1)
    after, slack = along + steps @ layer.gram, inset - inside
    return steps, ((after < layer.low - slack) | (after > layer.high + slack)).any(dim=-1)


def allowance(
    length: torch.Tensor, budget: torch.Tensor, hidden: int, unit: float, tiny: float
) -> torch.Tensor:
    """Return how long a step may be before rounding: `emoguard.steering.allowance`."""
    sums = 1 - (hidden + 16) * SINGLE
    most = sums * ((budget - unit) * length - hidden**0.5 * tiny) / (1 + unit)
    return torch.where(most > SHORTEST, most, 0)


def rounding(dtype: torch.dtype) -> tuple[float, float]:
    """Return unit roundoff and half the smallest number: `emoguard.steering.rounding`."""
    info = torch.finfo(dtype)
    unit = max(float(info.eps) / 2, SINGLE) + 2 * SINGLE
    return unit, float(info.smallest_normal) * float(info.eps) / 2
