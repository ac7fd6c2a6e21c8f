"""Compares files of the same weights, and checks that rows do not depend on their batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.extraction import SKIP, pool, skipped_tokens
from emoguard.probe.crossing import rolling_mean
from emoguard.records import Request
from emoguard.runtime.attach import attach
from emoguard.runtime.speaker import BatchSpeaker, Speaker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.guard import Guard
    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe
    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.speaker import Generated

TOLERANCE = 1e-3
HALF = (0.02, 0.2)
"""What rounding to 16 bits may do: bfloat16 keeps 8 bits, and the errors of many layers add up. z
measures in spreads, of which a residual is many times as long."""


@dataclass(frozen=True)
class Agreement:
    """One model file beside another, on the same responses, each with its own calibration.

    `gap` is the median of |dz| over tokens and labels, `gap_95` its 95th percentile; `rank` the
    lowest rank correlation of response means of any label. `flags` is the share of (response,
    label) on which the alarm agrees; `both` and `either` count those flagged by both and by at
    least one: with rare flags only these inform. `rerun` is the largest |dz| when the first file
    reads the same again.
    """

    file: str
    other: str
    responses: int
    gap: float
    gap_95: float
    rank: float
    flags: float
    both: int
    either: int
    rerun: float


@dataclass(frozen=True)
class Invariance:
    """The largest differences of rows by their batch, and below what each is wanted.

    `batch`: mean residuals of texts run together against one by one, as a share of their length;
    `padding`: z of rows of a left-padded batch against the same prompts alone, None for a runtime
    that does not pad.
    """

    batch: float
    padding: float | None
    wanted: tuple[float, float] = (TOLERANCE, TOLERANCE)

    @property
    def holds(self) -> bool:
        """Return whether both differences are within their tolerance."""
        batch, padding = self.wanted
        return self.batch <= batch and (self.padding or 0.0) <= padding


def read_z(
    door: Residuals,
    probe: Probe,
    calibration: Calibration | None,
    answers: Sequence[Generated],
    labels: Sequence[str],
) -> list[NDArray[np.float32]]:
    """Return z of each answer, (rows, labels), for the rows in a report's averages."""
    readout = probe.fold(calibration, labels)
    return [readout.read(one.residuals(door, probe.layers)) for one in answers]


def agreement(
    names: tuple[str, str],
    *,
    z: Sequence[NDArray[np.float32]],
    other: Sequence[NDArray[np.float32]],
    again: Sequence[NDArray[np.float32]],
    levels: tuple[NDArray[np.float64], NDArray[np.float64]],
    window: int,
) -> Agreement:
    """Compare z of the same responses in two files; `again` is the first file's second reading.

    `levels` are the flags' thresholds in each file, (labels,).
    """
    gaps = np.concatenate([np.abs(a - b) for a, b in zip(z, other, strict=True)])
    means = [np.array([rows.mean(axis=0) for rows in each]) for each in (z, other)]
    flags = [_flags(rows, level, window) for rows, level in zip((z, other), levels, strict=True)]
    rerun = max(float(np.abs(a - b).max()) for a, b in zip(z, again, strict=True))
    return Agreement(
        file=names[0],
        other=names[1],
        responses=len(z),
        gap=float(np.median(gaps)),
        gap_95=float(np.quantile(gaps, 0.95)),
        rank=min(_rank_correlation(*pair) for pair in zip(means[0].T, means[1].T, strict=True)),
        flags=float(np.mean(flags[0] == flags[1])),
        both=int(np.sum(flags[0] & flags[1])),
        either=int(np.sum(flags[0] | flags[1])),
        rerun=rerun,
    )


def batch_difference(door: Residuals, texts: Sequence[str], layers: Sequence[int]) -> float:
    """Return the largest difference between texts run together and one by one.

    As a share of the length of each mean residual, so that layers of any norm are judged alike.
    """
    together = pool(door, texts, layers)
    worst = 0.0
    for mean, text in zip(together, texts, strict=True):
        ids = door.tokenize(text)
        start = skipped_tokens(len(ids), SKIP)
        alone = door.residuals(ids, layers)[:, start:].mean(axis=1, dtype=np.float64)
        gap = np.linalg.norm(mean - alone, axis=1) / np.linalg.norm(alone, axis=1)
        worst = max(worst, float(gap.max()))
    return worst


def padding_difference(speaker: Speaker, guard: Guard, prompts: Sequence[str]) -> float | None:
    """Return the largest |dz| between rows of a padded batch and the same prompts alone.

    Prompts are cut to different lengths, and 8 tokens are generated; z is compared up to the first
    token that differs, after which the texts are not the same. None for a runtime that does not
    pad.
    """
    if not isinstance(speaker, BatchSpeaker):
        return None
    cut = [" ".join(text.split()[: 6 + 4 * n]) for n, text in enumerate(prompts)]
    ids = [speaker.door.tokenize(text) for text in cut]
    batch: BatchSpeaker = speaker
    with attach(speaker.model, guard, **speaker.options) as watch:

        def read(some: Sequence[Sequence[int]]) -> list[tuple[list[int], NDArray[np.float64]]]:
            requests = [Request(scores="tokens") for _ in some]
            with watch.recording() as reports:
                chosen = batch.batch(some, requests, tokens=8, exactly=True)
            z = [np.array([token.z for token in report.tokens]) for report in reports]
            return list(zip(chosen, z, strict=True))

        alone = [read([each])[0] for each in ids]
        return max(largest_gap(*pair) for pair in zip(alone, read(ids), strict=True))


def largest_gap(
    one: tuple[Sequence[int], NDArray[np.float64]], other: tuple[Sequence[int], NDArray[np.float64]]
) -> float:
    """Return the largest |dz| of two rows, each its token ids and their z (tokens, labels).

    Tokens count up to the first that differs, itself included: it was chosen after the same text.
    """
    pairs = zip(one[0], other[0], strict=True)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return float(np.abs(one[1] - other[1])[: same + 1].max())


def _flags(
    z: Sequence[NDArray[np.float32]], levels: NDArray[np.float64], window: int
) -> NDArray[np.bool_]:
    """Return a mask of the responses that rise above each level, (responses, labels)."""
    rolling = [rolling_mean(rows, window) for rows in z]
    none = np.zeros(len(levels), bool)
    return np.array([(r.max(axis=0) > levels) if len(r) else none for r in rolling])


def _rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    ranks = np.stack([each.argsort().argsort() for each in (a, b)])
    return float(np.asarray(np.corrcoef(ranks))[0, 1])
