"""Steers a batch within its bound, one plan per row.

On a CPU the reference itself moves each residual: a dozen calls of numpy cost less than three dozen
of torch. In compiled code, and on any other device, the same in torch, for all rows at once and
without waiting for the device; on GPUs with Triton in one launch (`fused`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from emoguard.steering.bound import Mover
from emoguard.steering.intervention import Intervention, Steering
from emoguard.steering.limit import SWEEPS
from emoguard.steering.rounding import LONGEST, SHORTEST, Rounding, allowance, limit_inset, roundoff
from emoguard_torch.lead import Lead
from emoguard_torch.precision import uncast
from emoguard_torch.tensors import hidden_state

MOVES = 3
"""What is kept per token: dose, clipped, faulted."""


@dataclass
class Layer:
    """The interventions of a batch at one layer: `each` row's own, None where it has none.

    As device tensors: `shift` (rows, 1, hidden) and `budget` (rows, 1), each row's own;
    `directions` (limits, hidden) and their `gram` are those of all rows together, with `low` and
    `high` (rows, 1, limits) infinite where a row has no such limit. `rows` (rows, 1) says which
    rows act here, `prompt` (rows, 1) which of them on their prompts, too; None when none does.
    `moves` (rows, 3) is where the last position's dose, clipped and faulted are written, `marks`
    the same memory where all is on a CPU, else None. `fused` does what `intervene` does in one
    launch; None where there is no such thing. `waiting` counts the positions of a chunked prefill
    that are still to come; None in any other. `lead` says which positions are left alone, None
    where those that are steered have none.
    """

    each: list[Intervention | None]
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
    lead: Lead | None = None
    marks: Any = None
    fused: Kernel | None = None
    made: dict[torch.dtype, list[Mover | None]] = field(default_factory=dict)

    def movers(self, dtype: torch.dtype) -> list[Mover | None]:
        """Return the movers of each row's residuals, stored in `dtype`."""
        if dtype not in self.made:
            rounding = torch_rounding(dtype)
            self.made[dtype] = [Mover(at, rounding) if at else None for at in self.each]
        return self.made[dtype]

    def writing(self, moves: torch.Tensor) -> Layer:
        """Return the same interventions, which write to `moves`."""
        return replace(self, moves=moves, marks=_shared(moves, self.shift.device))


Kernel = Callable[[torch.Tensor, Layer, torch.Tensor], torch.Tensor]
"""See `intervene`."""


@dataclass
class Batch:
    """The plans in force during one `generate`.

    `layers` maps the number of a probed layer to its interventions; `moves` (layers, rows, 3) is
    what they write; `lead` is that of all layers.
    """

    layers: dict[int, Layer]
    moves: torch.Tensor
    lead: Lead | None = None


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
    *,
    lead: Lead | None = None,
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
            each=rows,
            shift=torch.tensor(shift, device=device),
            directions=torch.tensor(directions, device=device),
            gram=torch.tensor(directions @ directions.T, device=device),
            low=torch.tensor(low, device=device),
            high=torch.tensor(high, device=device),
            budget=torch.tensor(budget, device=device),
            rows=torch.tensor([[row is not None] for row in rows], device=device),
            prompt=torch.tensor(prompt, device=device) if np.any(prompt) else None,
            moves=moves,
            marks=_shared(moves, torch.device(device)),
            waiting=None if chunked is None else torch.tensor(chunked, device=device),
            lead=lead,
        )


def _shared(moves: torch.Tensor, device: torch.device) -> Any:
    """Return the memory of `moves` as an array where all is on a CPU, else None."""
    return moves.numpy() if "cpu" == moves.device.type == device.type else None


def _at(plan: Steering | None, layer: int) -> Intervention | None:
    interventions = plan.interventions if plan else ()
    return next((i for i in interventions if i.layer == layer), None)


def steer(layer: Layer, output: Any, steps: int) -> Any:
    """Return a block's output with the positions that are to be steered moved.

    `steps` is how many tokens were chosen so far. Steered are the position the next token is chosen
    from and, where no cache keeps them, those of the tokens before it; the prompt only in rows that
    ask for it. Attention sinks are left alone.
    """
    whole = hidden_state(output)
    positions = whole.shape[1]
    count = 1 if positions == 1 else min(positions, steps + 1)
    one_by_one = layer.marks is not None and whole.dtype is not torch.float64
    if one_by_one and not torch.compiler.is_compiling():
        moved = _on_cpu(whole, layer, count)
    else:
        moved = _on_device(whole, layer, count)
    return (moved, *output[1:]) if isinstance(output, tuple) else moved


def _on_cpu(whole: torch.Tensor, layer: Layer, count: int) -> torch.Tensor:
    """Move the last `count` positions, and prompts that ask for it, one by one.

    Everything comes back through float32, which changes no value of a dtype that is not longer.
    Few calls of torch: after every block the processor's caches hold weights, and a call of torch
    costs several times what it costs in a loop.
    """
    positions = whole.shape[1]
    if layer.waiting is not None:
        layer.waiting.sub_(positions)
        if layer.waiting > 0:
            count = 0
    spared = layer.lead.within(positions, layer.waiting) if layer.lead else None
    alone = [0] * len(whole) if spared is None else spared[:, 0].tolist()
    moved = None
    states = whole.detach().float().numpy()
    layer.marks.fill(0)
    for row, mover in enumerate(layer.movers(whole.dtype)):
        if mover is None:
            continue
        first = 0 if layer.prompt is not None and layer.prompt[row] else positions - count
        for place in range(max(first, alone[row]), positions):
            each = mover(states[row, place])
            if each.h is not None:
                moved = states.copy() if moved is None else moved
                moved[row, place] = each.h
            if place == positions - 1:
                layer.marks[row] = each.dose, each.clipped, each.faulted
    return whole if moved is None else torch.from_numpy(moved).to(whole.dtype)


def _on_device(whole: torch.Tensor, layer: Layer, count: int) -> torch.Tensor:
    """Move the same positions all at once."""
    positions = whole.shape[1]
    act = layer.rows
    if layer.waiting is not None:  # the last position of a chunk is one of the prompt's own
        layer.waiting.sub_(positions)
        act = act & (layer.waiting <= 0)
    if layer.prompt is not None:
        place = torch.arange(positions, device=act.device)
        act = (act & (place >= positions - count)) | (layer.rows & layer.prompt)
        count = positions
    spared = layer.lead.within(positions, layer.waiting) if layer.lead else None
    if spared is not None:
        place = torch.arange(positions - count, positions, device=act.device)
        act = act & (place >= spared.to(act.device))
    move: Kernel = intervene
    if not torch.compiler.is_compiling() and layer.fused and whole.dtype is not torch.float64:
        move = layer.fused
    if count == positions:
        return move(whole, layer, act)
    last = move(whole[:, positions - count :], layer, act)
    return torch.cat([whole[:, : positions - count], last], dim=1)


def intervene(h: torch.Tensor, layer: Layer, act: torch.Tensor) -> torch.Tensor:
    """Return residuals (rows, positions, hidden) moved within the bound where `act` says so.

    Equals `emoguard.steering.bound.intervene` row by row; rows that are left alone keep every bit.
    `act` is (rows, 1) or (rows, positions). Writes the last position's dose, clipped and faulted.
    """
    wide = h.detach().float()
    unit, tiny = torch_roundoff(h.dtype)
    allowed = allowance(h.shape[-1], unit, tiny)
    length = torch.linalg.vector_norm(wide, dim=-1)
    step = layer.shift.expand_as(wide)
    missed = None
    if len(layer.directions):
        inset = limit_inset(h.shape[-1], unit) * length[..., None]
        with uncast(h.device):
            along = (wide + step) @ layer.directions.T
            steps, missed = limit(along, layer, inset)
            step = step + steps @ layer.directions
    size = torch.linalg.vector_norm(step, dim=-1)
    most = allowed.share * (layer.budget - unit) * length - allowed.offset
    most = torch.nn.functional.threshold(most, SHORTEST, 0.0)
    kept = (most / size.clamp_min(SHORTEST)).clamp_max(1)
    moved = (wide + step * kept[..., None]).to(h.dtype)
    change = torch.linalg.vector_norm(moved.float() - wide, dim=-1)
    # Every comparison with NaN is false.
    within = (most <= 0) | (change <= allowed.checked * layer.budget * length)
    sound = (length < LONGEST) & (size < LONGEST) & within
    acts = act & sound & (size > 0) & (most > 0)
    dose = change / length
    short = (size > most) if missed is None else (size > most) | missed
    marks = (torch.where(acts, dose, 0), act & sound & short, act & ~sound)
    for place, mark in zip(layer.moves.unbind(-1), marks, strict=True):
        place.copy_(mark[:, -1])
    return torch.where(acts[..., None], moved, h)


def limit(
    along: torch.Tensor, layer: Layer, inset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return λ (rows, positions, limits) and where a limit is missed (rows, positions).

    See `emoguard.steering.limit`. All passes run, needed or not: a check would wait for the device.
    """
    inside = torch.minimum(inset, (layer.high - layer.low) / 2)
    least, most = layer.low + inside, layer.high - inside
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


def torch_roundoff(dtype: torch.dtype) -> tuple[float, float]:
    """Return unit roundoff and half the smallest number: `emoguard.steering.rounding`."""
    info = torch.finfo(dtype)
    return roundoff(float(info.eps), float(info.smallest_normal) * float(info.eps))


def torch_rounding(dtype: torch.dtype) -> Rounding:
    """Return the rounding of a dtype of torch."""

    def store(moved: Any) -> Any:
        return torch.from_numpy(moved).to(dtype).float().numpy()

    return Rounding(*torch_roundoff(dtype), store)
