"""Detects drift of a label: a sequential two-sided test on ranks among a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.probe.crossing import rolling_mean
from emoguard.sinks.dependence import SMALLEST, dependence
from emoguard_drift.bets import Bets
from emoguard_drift.scores import Scores, linear, tailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARES = np.array([0.1, 0.25, 0.5, 0.95])
"""Bets on single rows: the smallest for a changed quarter of the traffic, .95 for all of it."""

BLOCK_SHARES = np.array([0.1, 0.3, 0.6, 0.9, 0.99])
"""Bets on blocks of rows."""

BLOCKS = 50
"""A block is at most this part of the baseline."""

FEWEST_BLOCKS = 10
"""Blocks that a baseline is cut into at least, whatever their size."""

ERRORS = 2.5
"""Standard errors of the mean of the baseline's blocks that bets on blocks tolerate."""

REST = 0.01
"""Part of the average run length that a label rests after an alarm: a change raises one alert, not
one every few rows."""


class DriftDetector:
    """A two-sided e-detector per label: evidence that values left their place in a baseline.

    `baseline`, shape (rows, labels), holds values of unchanged traffic in their order. A label
    alarms when its evidence reaches 1: Shiryaev-Roberts statistics of bets on ranks, averaged, as a
    share of `arl` times the number of labels. While nothing changes, the mean number of rows to the
    first alarm of any label is at least `arl` (Shin, Ramdas, Rinaldo, "E-detectors", 2022), if rows
    are independent and their ranks exact. The least worst-case delay at this run length is about
    log(arl labels) / KL rows, with KL the divergence of the changed from the unchanged distribution
    in nats per row (Lorden, "Procedures for reacting to a change in distribution", 1971).

    Half of the evidence comes from bets on the rank of each row (`tailed`), half from bets on the
    rank of block means (`linear`), whose blocks have `block` rows or a fiftieth of the baseline.
    Three allowances make up for real traffic, which meets neither condition:

    - *Dependence.* The log-evidence of bets on rows is divided by the baseline's `dependence` d.
      For normal scores whose sums over m rows have at most d m times the variance of one score, as
      in autoregressive streams, the evidence of any m rows then has mean <= 1 again. Bets on blocks
      are bounded and see ten blocks or so in half a cycle of a baseline that covers two: too few
      for an alarm.
    - *Error of the baseline.* The mean score of n rows has a variance of d / n scores. Averaged
      over a normal error of this size, a bet with share b gains at most exp(log(limit) / n) per row
      for as long as it takes the bet to reach the limit. Its tolerance is therefore at least
      d log(limit) / (n b): a change that takes more rows than the baseline has cannot be told from
      the baseline's own error. Bets on blocks tolerate 2.5 standard errors.
    - *Small changes.* Up to a change of `tolerance` in the mean rank of a block of `block` rows,
      which is .5 while nothing changes, no bet gains.

    After an alarm the evidence of the label is forgotten and stays 0 for a hundredth of `arl` rows.

    >>> rng = np.random.default_rng(1)
    >>> detector = DriftDetector(rng.normal(size=(2500, 2)))
    >>> [n for n in range(20_000) if detector.update(rng.normal(size=2))]
    []
    >>> for n in range(1000):
    ...     alarmed = detector.update(rng.normal([0, -0.8]))
    ...     if alarmed:
    ...         print(n, alarmed)
    ...         break
    55 {1: -1}
    """

    def __init__(
        self,
        baseline: NDArray[np.floating],
        *,
        tolerance: float = 0.1,
        block: int = 50,
        arl: float = 100_000,
    ) -> None:
        rows, labels = baseline.shape
        self.limit = arl * labels
        self._rest = int(REST * arl)
        self._resting: dict[int, int] = {}
        # The tolerated change of a block's mean rank, in standard deviations of blocks' means.
        deviations = math.sqrt(2) * NormalDist().inv_cdf(0.5 + tolerance)
        self._scores = Scores(baseline, tailed)
        scores = self._scores.of_all(baseline)
        self._rows = _bets_on_rows(scores, deviations * _spread(scores, block), self.limit)
        self._size = _size(rows, block)
        means = _block_means(baseline, self._size)
        self._block_scores = Scores(means, linear)
        moved = deviations * _spread(baseline, block) / _spread(baseline, self._size)
        self._blocks = _bets_on_blocks(len(means), moved)
        self._sum, self._count = np.zeros(labels), 0
        self._weigh_blocks()

    def update(self, row: NDArray[np.floating]) -> dict[int, int]:
        """Take one row (labels,); return the positions of labels that alarm.

        The value of a position is 1 if the label moved up and -1 if it moved down.
        """
        self._rows.update(self._scores.of(row))
        self._sum += row
        self._count += 1
        if self._count == self._size:
            self._blocks.update(self._block_scores.of(self._sum / self._size))
            self._sum, self._count = np.zeros_like(self._sum), 0
            self._weigh_blocks()
        if self._resting:
            self._forget(list(self._resting))
            self._resting = {n: left - 1 for n, left in self._resting.items() if left > 1}
        alarmed: list[int] = np.flatnonzero(self._total() >= self.limit).tolist()
        if not alarmed:
            return {}
        up = self._rows.upwards() + self._size * self._blocks.upwards()
        if self._rest:
            self._resting |= dict.fromkeys(alarmed, self._rest)
        self._forget(alarmed)
        return {n: 1 if up[n] > 0 else -1 for n in alarmed}

    def evidence(self) -> NDArray[np.float64]:
        """Return the evidence of each label, (labels,); 1 raises an alarm."""
        return np.asarray(self._total() / self.limit)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON data."""
        return {
            "rows": self._rows.evidence.tolist(),
            "blocks": self._blocks.evidence.tolist(),
            "sum": self._sum.tolist(),
            "count": self._count,
            "resting": [self._resting.get(n, 0) for n in range(len(self._sum))],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a detector with the same arguments.

        Raises:
            ValueError, LookupError, TypeError: the state is of another detector, or damaged.

        """
        rows = _numbers(state["rows"], self._rows.evidence)
        blocks = _numbers(state["blocks"], self._blocks.evidence)
        total = _numbers(state["sum"], self._sum)
        resting = _numbers(state["resting"], self._sum)
        count = state["count"]
        if type(count) is not int or not 0 <= count < self._size:
            raise ValueError("a block of another size")
        if min(rows.min(), blocks.min(), resting.min()) < 0:
            raise ValueError("negative evidence")
        if resting.max() > self._rest:
            raise ValueError("a rest of another length")
        self._rows.evidence, self._blocks.evidence = rows, blocks
        self._sum, self._count = total, count
        self._resting = {n: int(left) for n, left in enumerate(resting) if left}
        self._weigh_blocks()

    def _total(self) -> NDArray[np.float64]:
        return np.asarray((self._rows.mean() + self._of_blocks) / 2)

    def _weigh_blocks(self) -> None:
        # A block counts once for each of its rows, so that both halves grow by 1 a row.
        self._of_blocks = self._size * self._blocks.mean()

    def _forget(self, labels: Sequence[int]) -> None:
        self._rows.evidence[:, labels] = 0
        self._blocks.evidence[:, labels] = 0
        self._weigh_blocks()


def _bets_on_rows(
    scores: NDArray[np.floating], tolerance: NDArray[np.floating], limit: float
) -> Bets:
    """Return bets that allow for the dependence and the length of a baseline's scores."""
    powers = 1 / dependence(scores)
    errors = math.log(max(limit, 1)) / (len(scores) * powers * SHARES[:, None])
    return Bets(SHARES, np.maximum(tolerance, errors), powers)


def _bets_on_blocks(blocks: int, tolerance: NDArray[np.floating]) -> Bets:
    """Return bets that tolerate a move of blocks' means by so many standard deviations."""
    moves = np.maximum(tolerance, ERRORS / math.sqrt(blocks)).tolist()
    # For normal means, the mean rank of those that moved by m deviations is (1 + erf(m / 2)) / 2.
    scores = np.array([math.erf(move / 2) for move in moves])
    return Bets(BLOCK_SHARES, np.tile(scores, (len(BLOCK_SHARES), 1)), np.ones(len(moves)))


def _size(rows: int, block: int) -> int:
    """Return the rows of a block that bets on blocks take."""
    return min(max(block, rows // BLOCKS), max(1, rows // FEWEST_BLOCKS))


def _block_means(baseline: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    whole = len(baseline) // size * size
    return np.asarray(baseline[:whole].reshape(-1, size, baseline.shape[1]).mean(axis=1))


def _spread(rows: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """Return the standard deviation of the means of `size` successive rows, (labels,).

    Windows longer than a tenth of the baseline are too few: beyond it, means of longer ones are
    taken to vary as those of independent rows.
    """
    known = min(size, max(1, len(rows) // FEWEST_BLOCKS))
    spread = rolling_mean(rows, known).std(axis=0) * math.sqrt(known / size)
    return np.asarray(np.maximum(spread, SMALLEST))


def _numbers(saved: Any, like: NDArray[Any]) -> NDArray[np.float64]:
    numbers = np.array(saved, np.float64)
    if numbers.shape != like.shape or not np.all(np.isfinite(numbers)):
        raise ValueError("numbers of other labels")
    return numbers
