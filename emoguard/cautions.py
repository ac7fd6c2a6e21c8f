"""Lists the reasons to doubt a probe's scores on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emoguard.advice import calibrate_command

if TYPE_CHECKING:
    from emoguard.guard import Guard
    from emoguard.probe.identity import ModelIdentity


def cautions(guard: Guard, identity: ModelIdentity) -> list[str]:
    """Return one sentence per reason to doubt a guard's scores on a model."""
    calibration = guard.calibration(identity)
    doubts = [*guard.probe.cautions, *(calibration.cautions if calibration else ())]
    sentences = [f"{guard.probe.name}: {sentence}" for sentence in doubts]
    if calibration is None:
        sentences.append(_uncalibrated(guard, identity))
    return sentences


def _uncalibrated(guard: Guard, identity: ModelIdentity) -> str:
    loaded = " with ".join((identity.quantisation, *identity.adapters))
    others = ", ".join(each.identity.quantisation for each in guard.calibrations) or "nothing"
    remedy = f"make a calibration with {calibrate_command()}"
    if identity.adapters:  # no command loads a model with an adapter
        remedy = "merge the adapter into the model, save that and calibrate it"
    return (
        f"{guard.probe.name} is not calibrated for {identity.name} as it is loaded ({loaded}), but "
        f"for {others}: scores are raw projections, without ranks, alarms and steering; {remedy}"
    )
