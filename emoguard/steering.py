"""Bounded steering: the mathematics, as pure functions on residuals.

One layer's residual h becomes h' = h + Δ. Δ is composed of what a plan adds and of the smallest
step that satisfies its limits; then it is cut down to the bound, which always wins:

    ‖h' - h‖ ≤ b ‖h‖    for every token and layer, in the stored dtype, without tolerance.

Everything acts along the unit *steer* direction v of a label; the read direction never enters, so
that a plan cannot merely move the needle. This file is the reference in numpy that every runtime's
own version must equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.plan import CEILING, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.calibration import Calibration
    from emoguard.probe import Probe

SWEEPS = 32
"""Passes over the limits: they leave nothing to see (1e-14 of a standard deviation) for limits on
six labels of a shipped probe, .06 on all thirteen, which are nearly dependent."""

SINGLE = 2.0**-24
"""Unit roundoff of float32, in which everything is computed."""

SHORTEST = 1e-17
"""Lengths below have squares whose sum float32 no longer holds exactly enough."""

TINY = 1e-38
"""Keeps a division by a length of 0 finite."""


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


@dataclass(frozen=True, eq=False)
class Moved:
    """What became of residuals: `h`, of the shape and dtype they were given in.

    Per row (rows,): the realised `dose` ‖h' - h‖/‖h‖; whether it is `clipped`: the bound cut the
    step short, or limits contradict each other, so that one may not hold; whether the row was left
    alone as `faulted` because a number was not finite.
    """

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
    along: NDArray[np.floating], intervention: Intervention, inset: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return the smallest step that satisfies an intervention's limits, and where it does not.

    `along` (rows, limits) is h·v for each limited direction v; the step is Δ = λ V with λ (rows,
    limits). One direction gives a cap, Δ = min(0, high - h·v) v; a floor, Δ = max(0, low - h·v) v;
    or, with low = high, an ablation. Several are not orthogonal: `SWEEPS` passes of Hildreth's
    method (1957) on the dual, each setting one λ to what its own limit wants given the others.

    `inset` (rows, 1) is how far inside the limits to aim, where there is room, so that rounding
    does not cross them. The second array (rows,) says where a limit is missed all the same.
    """
    low, high, gram = intervention.low, intervention.high, intervention.gram
    inside = np.minimum(inset, (high - low) / 2)
    least, most = low + inside, high - inside
    steps = np.zeros_like(along)
    if np.all((least <= along) & (along <= most)):
        return steps, np.zeros(len(along), np.bool_)
    for _ in range(SWEEPS if len(gram) > 1 else 1):
        for i, row in enumerate(gram):
            without = along[:, i] + steps @ row - steps[:, i]
            steps[:, i] = np.clip(without, least[:, i], most[:, i]) - without
    after, slack = along + steps @ gram, inset - inside
    return steps, np.any((after < low - slack) | (after > high + slack), axis=1)


def intervene(h: NDArray[np.floating], intervention: Intervention) -> Moved:
    """Move residuals (rows, hidden) of dtype float16, float32 or float64 within the bound.

    Composed in float32, rounded once to the dtype of `h`. A row whose length or result is not
    finite stays as it is, `faulted`.
    """
    unit, tiny = rounding(h.dtype)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        wide = h.astype(np.float32)
        length = _length(wide)
        step = np.broadcast_to(intervention.shift, wide.shape)
        missed = np.zeros(len(h), np.bool_)
        if len(intervention.directions):
            inset = limit_inset(h.shape[-1], unit) * length[:, None]
            along = (wide + step) @ intervention.directions.T
            steps, missed = limit(along, intervention, inset)
            step = np.asarray(step + steps @ intervention.directions, np.float32)
        size = _length(step)
        most = allowance(length, intervention.budget, h.shape[-1], unit, tiny)
        share = np.minimum(np.float32(1), most / np.maximum(size, TINY))
        moved = (wide + step * share[:, None]).astype(h.dtype)
        sound = np.isfinite(length) & np.isfinite(size) & np.isfinite(moved).all(axis=-1)
        acts = sound & (size > 0) & (most > 0)
        moved = np.where(acts[:, None], moved, h)
        dose = np.where(acts, _length(moved.astype(np.float32) - wide) / length, 0)
        clipped = sound & ((size > most) | missed)
        return Moved(moved, dose.astype(np.float32), clipped, ~sound)


def allowance(
    length: NDArray[np.floating], budget: float, hidden: int, unit: float, tiny: float
) -> NDArray[np.float32]:
    """Return how long Δ may be before rounding so that ‖h' - h‖ ≤ b‖h‖ holds after it.

    Rounding h + Δ to the stored dtype moves it by at most u‖h + Δ‖ + √hidden·η (u unit roundoff, η
    half the smallest number), hence ‖Δ‖ ≤ ((b - u)‖h‖ - √hidden·η) / (1 + u). The first factor
    covers the float32 sums behind both lengths, in whatever order they are taken; they hold down
    to `SHORTEST`, below which nothing is moved.
    """
    sums = 1 - (hidden + 16) * SINGLE
    most = sums * ((budget - unit) * length - hidden**0.5 * tiny) / (1 + unit)
    return np.asarray(np.where(most > SHORTEST, most, 0), np.float32)


def limit_inset(hidden: int, unit: float) -> float:
    """Return how far inside a limit to aim, as a share of ‖h‖, so that rounding does not cross."""
    return 1.5 * (unit + hidden * SINGLE)


def rounding(dtype: np.dtype[np.floating]) -> tuple[float, float]:
    """Return (u, η) of a dtype that float32 is rounded to: unit roundoff, half the smallest number.

    The 2 float32 roundoffs on top are those of h + Δ before it is stored.
    """
    info = np.finfo(dtype)
    return max(float(info.eps) / 2, SINGLE) + 2 * SINGLE, float(info.smallest_subnormal) / 2


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
            f"the plan was made for probe {plan.probe}, this is {probe.name}: its labels may "
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
            f"residuals are, and {probe.name} has none: run emoguard calibrate"
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


def _length(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the length of each row, float32 (rows,)."""
    return np.asarray(np.sqrt(np.einsum("...h,...h->...", rows, rows)), np.float32)
