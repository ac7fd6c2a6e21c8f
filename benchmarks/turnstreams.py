"""Streams of stored answers of which, from some point on, a share is changed, and their alarms."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_drift import DriftDetector

from benchmarks import streams
from benchmarks.answertable import Table
from benchmarks.conditions import LABELS, NEUTRAL

BASELINE = 1000
"""Responses that a baseline is learned from."""

WARM = 300
"""Responses before the change."""

MOST = 4000
"""Responses after the change for which an alarm is waited for."""

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
TUNED = 10_000
"""Unchanged responses to one alarm where the limit is set on development streams."""

ARLS = tuple(round(10 ** (n / 2)) for n in range(2, 11))
"""Limits to choose from, 10 to 100,000."""


@dataclass(frozen=True, eq=False)
class Detectors:
    """A set of columns (answers, columns) that share one average run length."""

    name: str
    scores: np.ndarray
    arl: float = streams.ARL


def resampled(rows: np.ndarray, clusters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of prompts drawn with replacement."""
    names, inverse = np.unique(clusters[rows], return_inverse=True)
    drawn = rng.integers(0, len(names), len(names))
    return np.concatenate([rows[inverse == n] for n in drawn])


def draw(
    table: Table,
    plain: np.ndarray,
    changed: Sequence[np.ndarray],
    share: float,
    length: int,
    seed: int,
) -> np.ndarray:
    """Return rows of the table, (responses, streams), one stream for each of `changed`.

    `plain` are the rows that unchanged answers are drawn from, those of the baseline too: a few
    hundred answers to other prompts would differ from these by chance more than a drift that
    matters. `changed` are the rows of the answers that come in after `WARM` responses, none for a
    stream that does not change.
    """
    rng = np.random.default_rng(seed)
    found = []
    for rows in changed:
        usual = resampled(plain, table.clusters, rng)
        drawn = rng.choice(usual, length)
        if len(rows):
            other = rng.choice(resampled(rows, table.clusters, rng), length)
            turned = (rng.random(length) < share) & (np.arange(length) >= WARM)
            drawn = np.where(turned, other, drawn)
        found.append(np.concatenate([rng.choice(usual, BASELINE), drawn]))
    return np.stack(found, axis=1)


def alarms(detectors: Detectors, rows: np.ndarray, *, first: bool) -> list[tuple[int, int]]:
    """Return (response after the baseline, stream) of each alarm.

    An alarm of any column counts. Streams run side by side as columns of one detector, each at
    the limit that it would have alone. `first` ends when every stream has alarmed after the change.
    """
    length, many = rows.shape
    each = detectors.scores.shape[1]
    means = detectors.scores[rows].reshape(length, many * each)
    detector = DriftDetector(means[:BASELINE], arl=detectors.arl / many)
    found, waiting = [], set(range(many))
    quiet = np.zeros(many, int)
    for n, row in enumerate(means[BASELINE:]):
        for stream in sorted({column // each for column in detector.update(row)}):
            if n >= quiet[stream]:
                quiet[stream] = n + max(1, int(detectors.arl // 100))
                found.append((n, stream))
                if n >= WARM:
                    waiting.discard(stream)
        if first and not waiting:
            break
    return found


def delays(detectors: Detectors, rows: np.ndarray) -> np.ndarray:
    """Return the responses from the change to the next alarm, (streams,), inf for none."""
    found = np.full(rows.shape[1], math.inf)
    for n, stream in alarms(detectors, rows, first=True):
        if n >= WARM:
            found[stream] = min(found[stream], n - WARM + 1)
    return found


def changed_rows(table: Table, condition: str, repeats: int) -> list[np.ndarray]:
    """Return the rows of the condition's labels in the final pool, each `repeats` times."""
    rows = table.where("final", condition)
    each = [rows[table.labels[rows] == label] for label in LABELS]
    return [mine for mine in each if len(mine) for _ in range(repeats)]


def least(
    table: Table, detectors: Detectors, plain: np.ndarray, condition: str, share: float
) -> float:
    """Return the median over labels of the limit of information, responses.

    It is that of normal scores of the AUROC with which the set's best column tells the label's
    answers from unchanged ones, either way.
    """
    found = []
    for rows in changed_rows(table, condition, 1):
        usual = detectors.scores[plain]
        wins = [
            np.mean(detectors.scores[rows, n][:, None] > usual[:, n][None, :])
            for n in range(usual.shape[1])
        ]
        best = min(max(max(w, 1 - w) for w in wins), 0.999)
        shift = math.sqrt(2) * NormalDist().inv_cdf(best)
        found.append(streams.limit(shift, share, detectors.arl, usual.shape[1]))
    return float(np.median(found))


def tuned(
    table: Table, detectors: Detectors, plain: np.ndarray, many: int, length: int
) -> Detectors:
    """Return the set at the lowest limit with one alarm in `TUNED` development responses."""
    rows = draw(table, plain, [np.array([], int)] * many, 0, length, seed=11)
    for arl in ARLS:
        at = Detectors(detectors.name, detectors.scores, arl)
        if len(alarms(at, rows, first=False)) <= many * length / TUNED:
            return at
    return Detectors(detectors.name, detectors.scores, ARLS[-1])


def summary(found: np.ndarray) -> str:
    """Return the median delay with where 80 % of the streams lie."""
    low, middle, high = np.quantile(found, [0.1, 0.5, 0.9], method="nearest")
    missed = np.isinf(found).mean()
    late = f", {100 * missed:.0f} % not" if missed else ""
    return f"{middle:.0f} [{low:.0f}, {high:.0f}]{late}"


def moves(scores: np.ndarray, plain: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Return the largest move of a column's mean, in sd of plain answers, and what is chance.

    Chance is the 95 % quantile for as many plain answers, drawn at random.
    """
    usual = scores[plain]
    middle, spread = usual.mean(axis=0), usual.std(axis=0)
    rng = np.random.default_rng(7)
    drawn = [
        np.abs((rng.permutation(usual)[: len(rows)].mean(axis=0) - middle) / spread).max()
        for _ in range(500)
    ]
    found = np.abs((scores[rows].mean(axis=0) - middle) / spread).max()
    return float(found), float(np.quantile(drawn, 0.95))


def neutral_rows(table: Table, pool: str, condition: str) -> np.ndarray:
    """Return the rows of a condition's control."""
    rows = table.where(pool, condition)
    return rows[table.labels[rows] == NEUTRAL]
