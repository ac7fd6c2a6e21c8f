"""Detects that a model was trained further (by a LoRA, say) since its probe was calibrated.

A model that is only quantised again answers neutral prompts as before: its scores agree with the
calibration of another file of the same weights. The scores of a model trained further move, and the
zero that reports measure from is then wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit.responses import SHORTEST, Sampling, read_rows, responses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe
    from emoguard.runtime.speaker import Speaker

ANSWERS = 16
"""Number of answers whose scores are compared."""

SIGNIFICANT = 4.5
"""Standard errors by which the scores of a label must move before its probe counts as stale."""

LEAST = 0.25
"""Standard deviations of a token's score by which they must also move."""


@dataclass(frozen=True, eq=False)
class Movement:
    """How far the scores of neutral answers moved since a calibration, each (labels,).

    `shift` is in units of z, `errors` the same in standard errors of the mean of these answers.
    `witness` is the lowest cosine, over layers, of the witness text's residuals with those of the
    fitted model.
    """

    labels: tuple[str, ...]
    shift: NDArray[np.float64]
    errors: NDArray[np.float64]
    witness: float

    @property
    def moved(self) -> list[str]:
        """Return the labels whose scores moved, the largest movement first."""
        is_moved = (np.abs(self.errors) >= SIGNIFICANT) & (np.abs(self.shift) >= LEAST)
        order = np.argsort(-np.abs(self.errors), kind="stable")
        return [self.labels[n] for n in order if is_moved[n]]

    @property
    def largest(self) -> float:
        """Return the largest of `errors`."""
        return float(np.abs(self.errors).max())


def movement(
    speaker: Speaker,
    probe: Probe,
    calibrations: Sequence[Calibration],
    prompts: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
    *,
    answers: int = ANSWERS,
) -> Movement:
    """Let a model answer neutral prompts; compare its scores with calibrations of other files.

    `calibrations`, at least one, belong to the probe; the result is for the nearest one. Prompts
    are answered under the sampling of the calibrations, as far as it is known.

    Raises:
        EmoGuardError: no answer is long enough.

    """
    witness = float(probe.witness.cosines(speaker.door, probe.layers)[:, 1].min())
    sampling = sampling_of(calibrations[0])
    rows = []
    for answer in responses(speaker, prompts, sampling):
        rows += read_rows(speaker.door, probe, [answer])
        progress(min(len(rows), answers))
        if len(rows) == answers:
            break
    if not rows:
        raise EmoGuardError(
            f"wanted answers of at least {SHORTEST} tokens, got none to {len(prompts)} prompts: "
            "give other prompts"
        )
    movements = [_compared(probe, each, rows, witness) for each in calibrations]
    return min(movements, key=lambda each: each.largest)


def comparable(calibrations: Sequence[Calibration], prompts: Sequence[str]) -> list[Calibration]:
    """Return the calibrations made on these prompts without a system prompt.

    Answers under other ones differ without any change of the model.
    """
    wanted = Sampling().context("", prompts)
    alike = ("prompts", "system")
    return [
        each
        for each in calibrations
        if all(each.context.get(key, wanted[key]) == wanted[key] for key in alike)
    ]


def sampling_of(calibration: Calibration) -> Sampling:
    """Return the sampling of a calibration, as far as it is known: a system prompt never is."""
    context = calibration.context
    usual = Sampling()
    try:
        return Sampling(int(context["tokens"]), float(context["temperature"]))
    except (KeyError, ValueError):
        return usual


def _compared(
    probe: Probe, calibration: Calibration, rows: Sequence[NDArray[np.float32]], witness: float
) -> Movement:
    """Compare the means of responses with the quantiles of those of a calibration."""
    means = np.array([each.mean(axis=0, dtype=np.float64) for each in rows])
    z = (means - calibration.location) / calibration.scale
    # Evenly spaced quantiles have the mean of their distribution, and nearly its deviation.
    usual, spread = calibration.means.mean(axis=0), calibration.means.std(axis=0)
    shift = z.mean(axis=0) - usual
    # These answers may vary more than those of the calibration: the larger spread counts.
    deviation = np.maximum(spread, z.std(axis=0, ddof=1) if len(z) > 1 else spread)
    errors = shift / np.maximum(deviation, 1e-9) * np.sqrt(len(z))
    return Movement(probe.labels, shift, errors, witness)
