"""Steers a batch within its bound in one launch per block, on GPUs that Triton supports.

The three dozen calls of `steer.intervene` take longer to launch than many a block runs; this is the
same as one kernel. Needs triton, which torch installs on Linux.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from emoguard.steering.limit import SWEEPS
from emoguard.steering.rounding import LONGEST, SHORTEST, allowance, limit_inset
from emoguard_torch.steer import torch_roundoff

if TYPE_CHECKING:
    from emoguard_torch.steer import Layer


def intervene(h: torch.Tensor, layer: Layer, act: torch.Tensor) -> torch.Tensor:
    """Return residuals (rows, positions, hidden) moved; equals `steer.intervene`."""
    rows, positions, hidden = h.shape
    limits = len(layer.directions)
    h = h.contiguous()
    act = act.expand(rows, positions)
    moved = torch.empty_like(h)
    width = triton.next_power_of_2(hidden)
    unit, tiny = torch_roundoff(h.dtype)
    allowed = allowance(hidden, unit, tiny)
    with torch.cuda.device(h.device) if h.is_cuda else nullcontext():  # or interpreted, on a CPU
        # A grid's second side holds 65,535 at most: prompts are longer than batches are wide.
        _kernel[(positions, rows)](
            h,
            moved,
            layer.moves,
            act,
            layer.shift,
            layer.budget,
            layer.directions,
            layer.gram,
            layer.low,
            layer.high,
            *act.stride(),
            *layer.moves.stride(),
            positions,
            hidden,
            unit,
            *allowed,
            limit_inset(hidden, unit),
            limits=limits,
            lanes=triton.next_power_of_2(max(limits, 1)),
            width=width,
            passes=SWEEPS if limits > 1 else 1,
            shortest=SHORTEST,
            longest=LONGEST,
            num_warps=min(16, max(4, width // 1024)),
        )
    return moved


# Values that vary by prompt would be compiled anew when they are 1 or a multiple of 16.
@triton.jit(do_not_specialize=["positions", "act_row", "act_place"])
def _kernel(
    h,
    moved,
    moves,
    act,
    shift,
    budget,
    directions,
    gram,
    low,
    high,
    act_row,
    act_place,
    moves_row,
    moves_column,
    positions,
    hidden,
    unit,
    share,
    offset,
    checked,
    inset_ratio,
    limits: tl.constexpr,
    lanes: tl.constexpr,
    width: tl.constexpr,
    passes: tl.constexpr,
    shortest: tl.constexpr,
    longest: tl.constexpr,
):
    """Move one position of one row."""
    place = tl.program_id(0)
    row = tl.program_id(1)
    column = tl.arange(0, width)
    inside = column < hidden
    here = (row * positions + place).to(tl.int64) * hidden + column
    stored = tl.load(h + here, mask=inside, other=0.0)
    wide = stored.to(tl.float32)
    step = tl.load(shift + row * hidden + column, mask=inside, other=0.0)
    length = tl.sqrt(tl.sum(wide * wide))
    missed = row < 0
    if limits > 0:
        lane = tl.arange(0, lanes)
        low_here, high_here = low + row * limits + lane, high + row * limits + lane
        least = tl.load(low_here, mask=lane < limits, other=float("-inf"))
        most = tl.load(high_here, mask=lane < limits, other=float("inf"))
        along = tl.zeros((lanes,), tl.float32)
        for i in range(limits):
            direction = tl.load(directions + i * hidden + column, mask=inside, other=0.0)
            along = tl.where(lane == i, tl.sum((wide + step) * direction), along)
        inset = inset_ratio * length
        steps, missed = _limit(along, gram, least, most, inset, limits, lanes, passes)
        for i in range(limits):
            direction = tl.load(directions + i * hidden + column, mask=inside, other=0.0)
            step += _pick(steps, lane, i) * direction
    size = tl.sqrt(tl.sum(step * step))
    bound = tl.load(budget + row)
    allowed = share * (bound - unit) * length - offset
    allowed = tl.where(allowed <= shortest, 0.0, allowed)
    short = size > allowed
    kept = tl.where(short, allowed / size, 1.0)
    result = (wide + step * kept).to(stored.dtype)
    changed = tl.where(inside, result.to(tl.float32) - wide, 0.0)
    change = tl.sqrt(tl.sum(changed * changed))
    # A comparison with what is not a number is false.
    within = (allowed <= 0) | (change <= checked * bound * length)
    sound = (length < longest) & (size < longest) & within
    acting = tl.load(act + row * act_row + place * act_place) != 0
    applies = acting & sound & (size > 0) & (allowed > 0)
    tl.store(moved + here, tl.where(applies, result, stored), mask=inside)
    if place == positions - 1:
        marks = moves + row * moves_row
        tl.store(marks, tl.where(applies, change / length, 0.0))
        tl.store(marks + moves_column, (acting & sound & (short | missed)).to(tl.float32))
        tl.store(marks + 2 * moves_column, (acting & ~sound).to(tl.float32))


@triton.jit
def _limit(
    along,
    gram,
    least,
    most,
    inset,
    limits: tl.constexpr,
    lanes: tl.constexpr,
    passes: tl.constexpr,
):
    """Return λ (lanes,) and whether a limit is missed: see `emoguard.steering.limit`."""
    lane = tl.arange(0, lanes)
    by = tl.minimum(inset, (most - least) / 2)
    steps = tl.zeros((lanes,), tl.float32)
    for _ in range(passes):
        for i in range(limits):
            other = (lane < limits) & (lane != i)
            others = tl.load(gram + i * limits + lane, mask=other, other=0.0)
            without = _pick(along, lane, i) + tl.sum(others * steps)
            wanted = tl.maximum(without, _pick(least + by, lane, i))
            wanted = tl.minimum(wanted, _pick(most - by, lane, i))
            steps = tl.where(lane == i, wanted - without, steps)
    after = along
    for i in range(limits):
        column = tl.load(gram + i * limits + lane, mask=lane < limits, other=0.0)
        after += column * _pick(steps, lane, i)
    slack = inset - by
    outside = (after < least - slack) | (after > most + slack)
    return steps, tl.max(outside.to(tl.int32)) > 0


@triton.jit
def _pick(values, lane, i):
    """Return number `i` of `values`."""
    return tl.sum(tl.where(lane == i, values, 0.0))
