"""Turns a plan into numbers for one model file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emoguard.advice import calibrate_command
from emoguard.errors import EmoGuardError
from emoguard.steering.intervention import Intervention, Steering
from emoguard.steering.plan import CEILING, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe


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
    interventions = [
        _intervention(plan, probe, calibration, layer, 1 / len(layers), bound) for layer in layers
    ]
    return Steering(plan, bound, tuple(interventions))


def _intervention(  # noqa: PLR0917  (one call, just above)
    plan: Plan, probe: Probe, calibration: Calibration, layer: int, share: float, bound: float
) -> Intervention:
    """Return the intervention of `plan` at one layer, with its `share` of doses and bound."""
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


def add(
    directions: NDArray[np.floating], doses: NDArray[np.floating], norm: float
) -> NDArray[np.float32]:
    """Return Δ = Σ d ‖ref‖ v, float32 (hidden,): the shift of a plan at one layer.

    `directions` (labels, hidden) are unit steer directions, `doses` (labels,) their doses d,
    `norm` the layer's reference norm: the median length of a response token's residual.
    """
    return np.asarray((doses * norm) @ directions, np.float32)


def _limits(plan: Plan, label: str, quantiles: NDArray[np.float32]) -> tuple[float, float]:
    """Return (low, high) of h·v for one label, whose neutral `quantiles` are evenly spaced."""

    def at(level: float) -> float:
        return float(np.interp(level, np.linspace(0, 1, len(quantiles)), quantiles))

    low = at(plan.floor[label]) if label in plan.floor else -np.inf
    high = at(plan.cap[label]) if label in plan.cap else np.inf
    if label in plan.ablate:
        low = high = min(max(at(0.5), low), high)
    return low, high
