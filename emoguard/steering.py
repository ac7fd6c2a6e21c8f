"""Bounded steering: the mathematics, as pure functions on residuals.

One layer's residual h becomes h' = h + Δ. Δ is composed of what a plan adds and of the smallest
step that satisfies its limits; then it is cut down to the bound, which always wins:

    ‖h' - h‖ ≤ b ‖h‖    for every token and layer, in the stored dtype, without tolerance.

Everything acts along the unit *steer* direction v of a label; the read direction never enters, so
that a plan cannot merely move the needle. This file is the reference in numpy that every runtime's
own version must equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emoguard.advice import calibrate_command
from emoguard.errors import EmoGuardError
from emoguard.plan import CEILING, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.calibration import Calibration
    from emoguard.probe import Probe

SWEEPS = 32
"""Passes over the limits: they leave nothing to see (1e-14 of a standard deviation) for limits on
six labels of a shipped probe, .06 on all thirteen, which are nearly dependent."""

SETTLED = 0.03
"""Share of the inset below which a pass over the limits has nothing left to do."""

SINGLE = 2.0**-24
"""Unit roundoff of float32, in which everything is computed."""

SHORTEST = 1e-17
"""Lengths below have squares whose sum float32 no longer holds exactly enough."""


@dataclass(frozen=True, eq=False)
class Intervention:
    """A plan at one layer.

    `shift` (hidden,) is added. `directions` (limits, hidden) are the unit steer directions whose
    h·v is held between `low` and `high` (limits,), infinite where there is no limit; `gram`
    (limits, limits) is their Gram matrix. `budget` is this layer's share b of the bound.
    """

    layer: int
    shift: NDArray[np.float32]
    directions: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    gram: NDArray[np.float32]
    budget: float


@dataclass(frozen=True, eq=False)
class Steering:
    """A plan made ready for one model file: one intervention per layer it acts on.

    `asked` is what was asked for where the policy clipped it, else None.
    """

    plan: Plan
    bound: float
    interventions: tuple[Intervention, ...]
    asked: Plan | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the layers that are acted on."""
        return tuple(intervention.layer for intervention in self.interventions)


LONGEST = 1e15
"""Lengths beyond have products that float32 may not hold; nothing that long is a residual."""


class Rounding(NamedTuple):
    """What storing in a dtype does: its `roundoff`; `store` is from float32 to that and back."""

    unit: float
    tiny: float
    store: Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Limit(NamedTuple):
    """One limited direction: h·v lies between `low` and `high`; `gram` is its row of V Vᵀ."""

    low: float
    high: float
    gram: tuple[float, ...]


class Move(NamedTuple):
    """What became of one residual: `h` as stored, None where it stays as it is, to the bit.

    The realised `dose` is ‖h' - h‖/‖h‖. It is `clipped` where the bound cut the step short, or
    limits contradict each other, so that one may not hold; `faulted` where a number was not finite.
    """

    h: NDArray[np.float32] | None
    dose: float
    clipped: bool
    faulted: bool


FAULT = Move(None, 0.0, clipped=False, faulted=True)


class Mover:
    """One intervention on residuals stored in one dtype, one at a time.

    Composed in float32 and rounded once to the dtype that `rounding` describes. A residual that is
    not finite, that is `LONGEST`, or whose result is not finite stays as it is, `faulted`.
    """

    def __init__(self, intervention: Intervention, rounding: Rounding) -> None:
        hidden = len(intervention.shift)
        bounds = zip(intervention.low.tolist(), intervention.high.tolist(), strict=True)
        grams = map(tuple, intervention.gram.tolist())
        self._limits = [Limit(*b, gram) for b, gram in zip(bounds, grams, strict=True)]
        self._directions = intervention.directions
        self._shift = intervention.shift
        self._shift_length = _length(intervention.shift)
        self._shift_along = np.dot(intervention.directions, intervention.shift)
        self._inset = limit_inset(hidden, rounding.unit)
        share, self._offset = allowance(hidden, rounding.unit, rounding.tiny)
        self._slope = share * (intervention.budget - rounding.unit)
        self._store = rounding.store

    def __call__(self, h: NDArray[np.float32]) -> Move:
        """Move one residual (hidden,): float32 of the values as stored."""
        length = _length(h.astype(np.float64))
        if not length < LONGEST:
            return FAULT
        step, size, missed = self._shift, self._shift_length, False
        if self._limits:
            along = (np.dot(self._directions, h) + self._shift_along).tolist()
            steps, missed = limit(along, self._limits, self._inset * length)
            if steps is not None:
                step = step + np.dot(np.array(steps, np.float32), self._directions)
                size = _length(step)
                if not math.isfinite(size):
                    return FAULT
        most = self._slope * length - self._offset
        if most <= SHORTEST:
            most = 0.0
        clipped = missed or size > most
        if not (size and most):
            return Move(None, 0.0, clipped, faulted=False)
        if size > most:
            step = step * np.float32(most / size)
        moved = self._store(h + step)
        dose = _length(moved - h) / length
        if not math.isfinite(dose):
            return FAULT
        return Move(moved if dose else None, dose, clipped, faulted=False)


@dataclass(frozen=True, eq=False)
class Moved:
    """What became of many residuals: `h` (rows, hidden), the rest (rows,) as in `Move`."""

    h: NDArray[np.floating]
    dose: NDArray[np.float32]
    clipped: NDArray[np.bool_]
    faulted: NDArray[np.bool_]


def add(
    directions: NDArray[np.floating], doses: NDArray[np.floating], norm: float
) -> NDArray[np.float32]:
    """Return Δ = Σ d ‖ref‖ v, float32 (hidden,): what a plan adds at one layer.

    `directions` (labels, hidden) are unit steer directions, `doses` (labels,) their doses d,
    `norm` the layer's reference norm: the median length of a response token's residual.
    """
    return np.asarray((doses * norm) @ directions, np.float32)


def limit(
    along: Sequence[float], limits: Sequence[Limit], inset: float
) -> tuple[list[float] | None, bool]:
    """Return the smallest step that satisfies the limits, and whether one is missed all the same.

    `along` holds h·v for each limited direction v; the step is Δ = Σ λ v, returned as the λ, or
    None where nothing is to be done. One direction gives a cap, Δ = min(0, high - h·v) v; a floor,
    Δ = max(0, low - h·v) v; or, with low = high, an ablation. Several are not orthogonal: up to
    `SWEEPS` passes of Hildreth's method (1957) on the dual, each setting one λ to what its own
    limit wants given the others.

    `inset` is how far inside the limits to aim, where there is room, so that rounding does not
    cross them.
    """
    for at, (low, high, _) in zip(along, limits, strict=True):
        if not low + inset <= at <= high - inset:
            break
    else:
        return None, False
    return _project(along, limits, inset)


def _project(
    along: Sequence[float], limits: Sequence[Limit], inset: float
) -> tuple[list[float] | None, bool]:
    """Do the work of `limit`."""
    insides = [min(inset, (high - low) / 2) for low, high, _ in limits]
    aims = [(low + by, high - by) for (low, high, _), by in zip(limits, insides, strict=True)]
    steps = [0.0] * len(limits)

    def at(i: int) -> float:
        return along[i] + sum(map(mul, limits[i].gram, steps), 0.0)

    for _ in range(SWEEPS if len(limits) > 1 else 1):
        largest = 0.0
        for i, (least, most) in enumerate(aims):
            without = at(i) - steps[i]
            wanted = min(max(without, least), most) - without
            largest = max(largest, abs(wanted - steps[i]))
            steps[i] = wanted
        if largest <= SETTLED * inset:
            break
    missed = any(
        not low - (inset - by) <= at(i) <= high + (inset - by)
        for i, ((low, high, _), by) in enumerate(zip(limits, insides, strict=True))
    )
    return steps, missed


def intervene(h: NDArray[np.floating], intervention: Intervention) -> Moved:
    """Move residuals (rows, hidden) of dtype float16, float32 or float64, one by one."""
    mover = Mover(intervention, numpy_rounding(h.dtype))
    moved = h.copy()
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        moves = [mover(row) for row in h.astype(np.float32)]
        for n, each in enumerate(moves):
            if each.h is not None:
                moved[n] = each.h
    return Moved(
        moved,
        np.array([each.dose for each in moves], np.float32),
        np.array([each.clipped for each in moves], np.bool_),
        np.array([each.faulted for each in moves], np.bool_),
    )


def allowance(hidden: int, unit: float, tiny: float) -> tuple[float, float]:
    """Return (share, offset): Δ may be share·(b - u)‖h‖ - offset long before rounding, no longer.

    Rounding h + Δ to the stored dtype moves it by at most u‖h + Δ‖ + √hidden·η (u unit roundoff, η
    half the smallest number), hence ‖h' - h‖ ≤ b‖h‖ wherever ‖Δ‖ ≤ ((b - u)‖h‖ - √hidden·η) /
    (1 + u). A further factor covers the float32 sums behind both lengths, in whatever order they
    are taken; they hold down to `SHORTEST`, below which nothing is moved.
    """
    share = (1 - (hidden + 16) * SINGLE) / (1 + unit)
    return share, share * hidden**0.5 * tiny


def limit_inset(hidden: int, unit: float) -> float:
    """Return how far inside a limit to aim, as a share of ‖h‖, so that rounding does not cross."""
    return 1.5 * (unit + hidden * SINGLE)


def roundoff(eps: float, smallest: float) -> tuple[float, float]:
    """Return (u, η) of a dtype that float32 is rounded to: unit roundoff, half the smallest number.

    `eps` is the dtype's relative spacing, `smallest` its smallest subnormal number. The 2 float32
    roundoffs on top are those of h + Δ before it is stored.
    """
    return max(eps / 2, SINGLE) + 2 * SINGLE, smallest / 2


@cache
def numpy_rounding(dtype: np.dtype[np.floating]) -> Rounding:
    """Return the rounding of a dtype of numpy."""
    info = np.finfo(dtype)
    unit, tiny = roundoff(float(info.eps), float(info.smallest_subnormal))
    return Rounding(unit, tiny, lambda moved: moved.astype(dtype).astype(np.float32))


FLOAT32 = Rounding(*roundoff(2 * SINGLE, 2.0**-149), lambda moved: moved)
"""Stored as computed: what llama.cpp does."""


def prepare(plan: Plan, probe: Probe, calibration: Calibration | None, bound: float) -> Steering:
    """Turn a plan into numbers for one model file.

    The plan's doses and the `bound` are for all layers together; each layer gets an equal share.

    Raises:
        EmoGuardError: labels or layers the probe does not have, a plan for another probe, no
            calibration of this model file.

    """
    if not 0 < bound <= CEILING:
        raise EmoGuardError(f"the steering bound must lie in (0, {CEILING}], got {bound:g}")
    if plan.probe and plan.probe not in (probe.name, probe.name.partition("@")[0]):
        raise EmoGuardError(
            f"the plan was made for probe {plan.probe:.100}, this is {probe.name}: its labels may "
            "mean other directions; make a plan for this probe"
        )
    probe.indices(plan.labels)
    missing = [layer for layer in plan.layers if layer not in probe.layers]
    if missing:
        raise EmoGuardError(
            f"plan.layers must be among {', '.join(map(str, probe.layers))}, the layers of "
            f"{probe.name}, got {', '.join(map(str, missing))}"
        )
    if calibration is None:
        raise EmoGuardError(
            "steering needs a calibration of exactly this model file, which says how long its "
            f"residuals are, and {probe.name} has none: make one with {calibrate_command()}"
        )
    layers = sorted(set(plan.layers or probe.layers))
    made = [
        _intervention(plan, probe, calibration, layer, 1 / len(layers), bound) for layer in layers
    ]
    return Steering(plan, bound, tuple(made))


def _intervention(  # noqa: PLR0917  (one call, just above)
    plan: Plan, probe: Probe, calibration: Calibration, layer: int, share: float, bound: float
) -> Intervention:
    """Return what `plan` does at one layer, with its `share` of the doses and of the bound."""
    index = probe.layers.index(layer)
    unit = probe.steer[index].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    doses = np.array([plan.add.get(label, 0.0) * share for label in probe.labels])
    limited = tuple(dict.fromkeys((*plan.cap, *plan.floor, *plan.ablate)))
    columns = probe.indices(limited)
    limits = [
        _limits(plan, label, calibration.limits[index, :, column])
        for label, column in zip(limited, columns, strict=True)
    ]
    low, high = np.array(limits, np.float32).reshape(-1, 2).T
    return Intervention(
        layer=layer,
        shift=add(unit, doses, float(calibration.norms[index])),
        directions=unit[columns].astype(np.float32),
        low=low,
        high=high,
        gram=(unit[columns] @ unit[columns].T).astype(np.float32),
        budget=bound * share,
    )


def _limits(plan: Plan, label: str, quantiles: NDArray[np.float32]) -> tuple[float, float]:
    """Return (low, high) of h·v for one label, whose neutral `quantiles` are evenly spaced."""

    def at(level: float) -> float:
        return float(np.interp(level, np.linspace(0, 1, len(quantiles)), quantiles))

    low = at(plan.floor[label]) if label in plan.floor else -np.inf
    high = at(plan.cap[label]) if label in plan.cap else np.inf
    if label in plan.ablate:
        low = high = min(max(at(0.5), low), high)
    return low, high


def _length(row: NDArray[np.floating]) -> float:
    """Return the length of one row."""
    return math.sqrt(float(np.dot(row, row)))
