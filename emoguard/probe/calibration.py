"""Calibrates projections on one model file: location, scale, ranks and alarm thresholds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from emoguard.advice import fit_command
from emoguard.errors import EmoGuardError
from emoguard.probe.certificate import Curve
from emoguard.probe.crossing import HYSTERESIS, WINDOW
from emoguard.steering.rounding import LONGEST, SHORTEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.identity import ModelIdentity

QUANTILES = 101
"""Response means are kept as this many evenly spaced quantiles: ranks resolve one percent."""

FEWEST_RESPONSES = 8
"""Neutral responses that a calibration needs."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Projections of one model's own neutral responses, summarised.

    `location` and `scale`, shape (labels,), are mean and standard deviation of the projection over
    response tokens: z = (projection - location) / scale. `means`, shape (101, labels), are the
    quantiles 0, .01 … 1 of the *response mean* of z. `norms`, shape (layers,), are the reference
    norms: the median length of a response token's residual at each probed layer. `limits`, shape
    (layers, 101, labels), are quantiles of h·v (v the unit steer direction) over response tokens:
    the scale of a cap or floor. `context` states the conditions of the responses in words
    (template, system prompt, sampling). `curve` counts the crossings of z at each level; without it
    no alarm threshold can be certified. `created` is the time of the measurement, in seconds since
    1970, 0 if unknown. `cautions` are reasons to doubt it, one line each.
    """

    identity: ModelIdentity
    location: NDArray[np.float32]
    scale: NDArray[np.float32]
    means: NDArray[np.float32]
    norms: NDArray[np.float32]
    limits: NDArray[np.float32]
    responses: int
    tokens: int
    context: Mapping[str, str] = field(default_factory=dict)
    curve: Curve | None = None
    created: float = 0.0
    cautions: tuple[str, ...] = ()

    @classmethod
    def measure(
        cls,
        identity: ModelIdentity,
        projections: list[NDArray[np.float32]],
        norms: NDArray[np.float32],
        limits: NDArray[np.float32],
        context: Mapping[str, str],
        *,
        window: int = WINDOW,
        hysteresis: float = HYSTERESIS,
        cautions: Sequence[str] = (),
    ) -> Calibration:
        """Summarise raw projections, one array (tokens, labels) per neutral response.

        `norms` and `limits` are kept as they are. `window` (tokens) and `hysteresis` (in units of
        z) are those of the alarms that can be certified.
        """
        if len(projections) < FEWEST_RESPONSES:
            raise EmoGuardError(
                f"a calibration needs at least {FEWEST_RESPONSES} neutral responses, got "
                f"{len(projections)}: give more prompts"
            )
        if not all(len(projection) for projection in projections):
            raise EmoGuardError("a calibration response has no tokens: leave empty ones out")
        rows = np.concatenate(projections).astype(np.float64)
        location, scale = rows.mean(axis=0), rows.std(axis=0)
        if not np.all(scale > 0):
            raise EmoGuardError(
                "the projections of the neutral responses do not vary at all: the probe does not "
                f"read this model; make one for it with {fit_command()}"
            )
        z = [(p.astype(np.float64) - location) / scale for p in projections]
        means = np.array([each.mean(axis=0) for each in z])
        grid = np.quantile(means, np.linspace(0, 1, QUANTILES), axis=0)
        return cls(
            identity,
            location.astype(np.float32),
            scale.astype(np.float32),
            grid.astype(np.float32),
            norms.astype(np.float32),
            limits.astype(np.float32),
            len(projections),
            len(rows),
            dict(context),
            Curve.measure(z, window, hysteresis),
            time.time(),
            tuple(cautions),
        )

    def rank(
        self, means: NDArray[np.floating], columns: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Return the place of response means among neutral ones, in [0, 1], shape as `means`.

        `columns` are the probe's labels that the means belong to, by default all.
        """
        levels = np.linspace(0, 1, QUANTILES)
        grids = self.means.T if columns is None else self.means.T[columns]
        return np.array([np.interp(m, grid, levels) for m, grid in zip(means, grids, strict=True)])

    def check_fits(self, labels: int, layers: int) -> None:
        """Refuse a calibration that a probe of `labels` and `layers` cannot use.

        Raises:
            EmoGuardError: wrong shapes, NaN, scales not above 0, quantiles that fall, lengths that
                no residual can have.

        """
        for name, wanted in (
            ("location", (labels,)),
            ("scale", (labels,)),
            ("means", (QUANTILES, labels)),
            ("norms", (layers,)),
            ("limits", (layers, QUANTILES, labels)),
        ):
            array = getattr(self, name)
            if array.shape != wanted or not np.all(np.isfinite(array)):
                raise EmoGuardError(
                    f"calibration {name} must be finite of shape {wanted}, got {array.shape}: "
                    "it is another probe's, or the file is damaged; use an undamaged copy"
                )
        self._check_lengths()
        if self.curve is not None:
            self.curve.check_fits(labels)
        if not 0 <= self.created < math.inf:
            raise EmoGuardError(
                f"calibration created must be seconds since 1970, got {self.created}: use an "
                "undamaged copy of the file"
            )
        falls = np.any(np.diff(self.means, axis=0) < 0) or np.any(np.diff(self.limits, axis=1) < 0)
        if not (np.all(self.scale > 0) and np.all(self.norms > 0)) or falls:
            raise EmoGuardError(
                "calibration scales and norms must be above 0 and quantiles must not fall: use an "
                "undamaged copy of the file"
            )

    def _check_lengths(self) -> None:
        """Refuse norms, and limits of h·v, that no residual can have: steps are computed from them.

        Raises:
            EmoGuardError: the message names the array and its worst value.

        """
        shortest, longest = float(self.norms.min()), float(self.norms.max())
        farthest = float(np.abs(self.limits).max(initial=0))
        for name, value, is_sound in (
            ("norms", shortest, shortest > SHORTEST or shortest <= 0),
            ("norms", longest, longest < LONGEST),
            ("limits", farthest, farthest < LONGEST),
        ):
            if not is_sound:
                raise EmoGuardError(
                    f"calibration {name} hold {value:g}, and no residual is that long: wanted "
                    f"lengths from {SHORTEST:g} to {LONGEST:g}; use an undamaged copy of the file"
                )
