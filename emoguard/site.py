"""Computes, once, all parts of a guard that depend on the model file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoguard.policy.policy import Policy
from emoguard.policy.reload import FixedPolicy, PolicyFile
from emoguard.probe.calibration import Calibration
from emoguard.probe.certificate import Threshold
from emoguard.probe.crossing import Crossings
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.probe import Probe, Readout
from emoguard.steering.intervention import Steering
from emoguard.steering.plan import Plan
from emoguard.steering.prepare import prepare


@dataclass(eq=False)
class Site:
    """A probe and a policy on one model file: watches run on one, sinks are opened for one.

    `read` are the labels that are read and reported, in the order of a row; of these, `labels` are
    monitored. `calibration` is None on an uncalibrated file. `backend` is the runtime and the path
    that reading starts on.
    """

    probe: Probe
    source: FixedPolicy | PolicyFile
    identity: ModelIdentity
    calibration: Calibration | None
    read: tuple[str, ...]
    labels: tuple[str, ...]
    backend: str = ""

    def __post_init__(self) -> None:
        self._prepared: tuple[Plan, float, Steering] | None = None

    @property
    def policy(self) -> Policy:
        """Return the policy in force."""
        return self.source.policy

    @property
    def policy_file(self) -> PolicyFile | None:
        """Return the file that the policy follows, None without one."""
        return self.source if isinstance(self.source, PolicyFile) else None

    @cached_property
    def columns(self) -> list[int]:
        """Return the places of `read` among the probe's labels."""
        return self.probe.indices(self.read)

    @cached_property
    def readout(self) -> Readout:
        """Return the matrices that hooks multiply with: they give z if calibrated, else raw."""
        return self.probe.fold(self.calibration, self.read)

    @cached_property
    def thresholds(self) -> Mapping[str, Threshold | None]:
        """Return the certified alarm threshold of each of `labels`; None where none can be.

        Each may fire at an equal share of the policy's family rate. A calibration for another
        window or hysteresis than the policy's certifies nothing.
        """
        alarms = self.policy.alarms  # the parts used here cannot change under a watch
        calibration, wanted = self.calibration, (alarms.window_tokens, alarms.hysteresis_sd)
        curve = calibration.curve if calibration is not None else None
        if curve is None or (curve.window, curve.hysteresis) != wanted:
            return dict.fromkeys(self.labels)
        share = alarms.rate_per_1000_tokens / max(1, len(self.labels))
        places = self.probe.indices(self.labels)
        return {
            label: curve.threshold(column, share)
            for label, column in zip(self.labels, places, strict=True)
        }

    @cached_property
    def levels(self) -> NDArray[np.float64]:
        """Return the alarm level of each of `read`: infinite, so never crossed, without one."""
        thresholds = map(self.thresholds.get, self.read)
        return np.array([math.inf if each is None else each.level for each in thresholds])

    def crossings(self) -> Crossings:
        """Return a counter of the crossings of one response while it is generated."""
        alarms = self.policy.alarms
        return Crossings(self.levels.tolist(), alarms.window_tokens, alarms.hysteresis_sd)

    def steering(self, plan: Plan | Mapping[str, Any] | None = None) -> Steering | None:
        """Return the steering of `plan` laid over the policy's; None if it does nothing.

        Raises:
            EmoGuardError: a plan beyond the policy, for another probe, or without a calibration.

        """
        policy = self.policy.steering
        allowed, whole = policy.allow(Plan() if plan is None else Plan.parse(plan))
        if allowed.is_empty:
            return None
        return replace(self._prepare(allowed, policy.max_dose_ratio), asked=whole)

    def _prepare(self, plan: Plan, bound: float) -> Steering:
        """Return a plan made ready; the last one is kept, as most requests ask for the same."""
        last = self._prepared
        if last is None or last[:2] != (plan, bound):
            last = plan, bound, prepare(plan, self.probe, self.calibration, bound)
            self._prepared = last
        return last[2]

    def rescaled(self, rows: NDArray[np.float32], other: Site) -> NDArray[np.float32]:
        """Convert rows (tokens, labels) from the scale of `other` to that of this file.

        Both are of one probe and read the same labels.
        """
        wide = rows.astype(np.float64)
        if (old := other.calibration) is not None:
            wide = wide * old.scale[self.columns] + old.location[self.columns]
        if (new := self.calibration) is not None:
            wide = (wide - new.location[self.columns]) / new.scale[self.columns]
        return wide.astype(np.float32)
