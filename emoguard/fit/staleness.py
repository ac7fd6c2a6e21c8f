"""Tells whether a probe still fits a model whose weights changed, as by a LoRA, or only its file.

Quantised again, a model answers neutral prompts as before: its scores lie where the calibration of
another file of the same weights says. A model trained further answers otherwise, and its scores
move; the labels' zero is then no longer where reports put it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.responses import Sampling, read_rows, respond

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe
    from emoguard.runtime.speaker import Speaker

ANSWERS = 16
"""Answers that scores are compared on."""

SIGNIFICANT = 4.5
"""Standard errors that the scores of a label moved by, at least, where a probe is stale."""

LEAST = 0.25
"""Standard deviations of a token's score that they moved by, at least."""


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
        """Return the labels whose scores moved, the farthest first."""
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

    `calibrations`, at least one, are those of the probe: the nearest counts. Prompts are answered
    under the sampling they were made with, as far as that is known.

    Raises:
        EmoGuardError: no answer is long enough.

    """
    witness = float(probe.witness.cosines(speaker.door, probe.layers)[:, 1].min())
    sampling = sampling_of(calibrations[0])
    rows = []
    for number, prompt in enumerate(prompts):
        rows += read_rows(speaker.door, probe, [respond(speaker, prompt, sampling, number)])
        progress(min(len(rows), answers))
        if len(rows) == answers:
            break
    found = [_compared(probe, each, rows, witness) for each in calibrations]
    return min(found, key=lambda each: each.largest)


def sampling_of(calibration: Calibration) -> Sampling:
    """Return the sampling of a calibration as far as it is known; a system prompt is not."""
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
    # Even quantiles have the mean of what they are quantiles of, and about its deviation.
    usual, spread = calibration.means.mean(axis=0), calibration.means.std(axis=0)
    shift = z.mean(axis=0) - usual
    # The answers may vary more than those of the calibration: then their own spread counts.
    deviation = np.maximum(spread, z.std(axis=0, ddof=1) if len(z) > 1 else spread)
    errors = shift / np.maximum(deviation, 1e-9) * np.sqrt(len(z))
    return Movement(probe.labels, shift, errors, witness)
