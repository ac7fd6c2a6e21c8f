"""Measures the AUROC of directions without meaning on the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.recipe import Fitted, Recipe, fit_directions
from emoguard.fit.textonly import standardised
from emoguard.validate.judged import testable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.validate.judged import Task
    from emoguard.validate.reading import Texts

ERROR = 0.05
"""Chance that any target of a meaningless probe exceeds the level for single targets."""

MACRO_ERROR = 0.01
"""Chance that the mean of a meaningless probe exceeds the level for means."""

SHUFFLES = 20
DIRECTIONS = 600


@dataclass(frozen=True)
class Spread:
    """The spread of meaningless directions' AUROC around one half.

    Standard deviations on the normal scale, Φ⁻¹(AUROC), on which that of a random direction is
    about normal: of one target, and of the mean over names.
    """

    target: float
    macro: float


@dataclass(frozen=True)
class Chance:
    """The spread of AUROC of directions without meaning on the same texts.

    A bootstrap interval does not cover this: even on very many texts a random direction favours
    some label, because labels differ along most directions. `left_out`: the recipe fitted on
    shuffled labels, tested on the true ones of the corpora left out. The others are for one set of
    directions for all corpora, as in a probe file: `shuffled` the recipe fitted on shuffled labels
    of them all, `isotropic` directions drawn uniformly, `covariance` drawn in the covariance of the
    residuals.
    """

    left_out: Spread
    shuffled: Spread
    isotropic: Spread
    covariance: Spread
    targets: int

    @property
    def recipe(self) -> float:
        """Return the level that some target of a meaningless recipe exceeds in 5 % of cases."""
        return _level(self.left_out.target, ERROR / self.targets)

    @property
    def recipe_macro(self) -> float:
        """Return the level that the mean of a meaningless recipe exceeds in 1 % of cases."""
        return _level(self.left_out.macro, MACRO_ERROR)

    @property
    def file(self) -> float:
        """Return the level that some target of a meaningless file exceeds in 5 % of cases."""
        return _level(max(s.target for s in self._files), ERROR / self.targets)

    @property
    def file_macro(self) -> float:
        """Return the level that the mean of a meaningless file exceeds in 1 % of cases."""
        return _level(max(s.macro for s in self._files), MACRO_ERROR)

    @property
    def _files(self) -> tuple[Spread, ...]:
        return self.shuffled, self.isotropic, self.covariance


def chance(
    task: Task,
    corpora: Sequence[Texts],
    neutral: NDArray[np.float32],
    layers: Sequence[int],
    recipe: Recipe,
    *,
    shuffles: int = SHUFFLES,
    directions: int = DIRECTIONS,
) -> Chance:
    """Return the scores of meaningless directions at `layers`, averaged like real ones."""
    left_out: list[NDArray[np.float64]] = []
    whole: list[NDArray[np.float64]] = []
    for seed in range(shuffles):
        wrong = [c.shuffled(1000 * seed + n) for n, c in enumerate(corpora)]

        def areas(train: Sequence[Texts], tests: Sequence[Texts]) -> list[NDArray[np.float64]]:
            pooled = [each.pooled for each in train]
            fitted = fit_directions(pooled, neutral, task.names, recipe, tuple(layers))
            return [_point_areas(task, fitted, test) for test in tests]

        whole.append(_mean(areas(wrong, corpora)))
        # A corpus that no other can test is tested on a fit to its own shuffled labels, which hold
        # no truth.
        others = [[w for w in wrong if w is not own] for own in wrong]
        trained = [
            train if testable(task, train, own) else [own]
            for train, own in zip(others, wrong, strict=True)
        ]
        left_out.append(
            _mean([areas(t, [test])[0] for t, test in zip(trained, corpora, strict=True)])
        )
    names = len(task.names)
    drawn = [
        random_areas(task, corpora, layers, directions, isotropic=isotropic)
        for isotropic in (True, False)
    ]
    shuffled = [np.array(each) for each in (left_out, whole)]
    return Chance(
        left_out=_spread(shuffled[0], shuffled[0][:, :names]),
        shuffled=_spread(shuffled[1], shuffled[1][:, :names]),
        # A random probe has a direction of its own for each name: this many draws make one.
        isotropic=_spread(drawn[0], _diagonals(drawn[0], names)),
        covariance=_spread(drawn[1], _diagonals(drawn[1], names)),
        targets=len(task.targets),
    )


def random_areas(
    task: Task, corpora: Sequence[Texts], layers: Sequence[int], count: int, *, isotropic: bool
) -> NDArray[np.float64]:
    """Return the AUROC per target of `count` random directions, (count, targets).

    A direction is drawn at each of `layers`, its projections scaled to unit spread and summed.
    `isotropic` directions are uniform; the others are drawn in the covariance of the residuals of
    all corpora, as differences of means of random texts would be.
    """
    rng = np.random.default_rng(0)
    sums = [np.zeros((len(c), count)) for c in corpora]
    for layer in layers:
        states = [c.residuals[:, layer] - c.residuals[:, layer].mean(axis=0) for c in corpora]
        if isotropic:
            drawn = rng.normal(size=(states[0].shape[1], count))
        else:
            drawn = sum(s.T @ rng.normal(size=(len(s), count)) / np.sqrt(len(s)) for s in states)
        for n, state in enumerate(states):
            projected = state @ drawn
            sums[n] += projected / projected.std(axis=0)
    areas = []
    for c, scores in zip(corpora, sums, strict=True):
        positive = task.positives(c.labels)
        areas.append(np.stack([_areas_of(scores, yes) for yes in positive.T], axis=1))
    return np.asarray(_mean(areas))


def point_areas(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the AUROC per target of scores (texts, targets), without an interval."""
    pairs = zip(scores.T, positive.T, strict=True)
    return np.array([_areas_of(s[:, None], yes)[0] for s, yes in pairs])


def _point_areas(task: Task, fitted: Fitted, test: Texts) -> NDArray[np.float64]:
    """Return the AUROC per target, NaN for names that the fit or the test has no texts of."""
    scores = standardised(fitted.scores(test.residuals))
    scores[:, ~np.any(fitted.read, axis=(0, 2))] = np.nan
    return point_areas(task.with_axis(scores), task.positives(test.labels))


@dataclass(frozen=True)
class LayerProfile:
    """The AUROC of each layer alone on left-out corpora, corrected for choosing the best.

    `areas`, by layer, are macro AUROC averaged over the corpora left out. `level` is reached by the
    best layer in 5 % of permutations of the test labels, `p` the share of permutations (the
    observed one counted) whose best layer does at least as well as the observed best.
    """

    layers: tuple[int, ...]
    areas: tuple[float, ...]
    level: float
    p: float


def layer_profile(
    task: Task,
    tested: Sequence[tuple[Texts, NDArray[np.float64]]],
    *,
    permutations: int = 1000,
) -> LayerProfile:
    """Return the profile of scores (texts, layers, names) on each test corpus.

    Labels are permuted within topics, the same permutation for all layers: the distribution of the
    maximum is then right however layers correlate (Westfall and Young, 1993).
    """
    observed, null = [], []
    for texts, scores in tested:
        ranks = _ranks(scores)
        observed.append(_macro(ranks, _onehot(task, texts.labels[None])))
        wrong = np.stack([texts.shuffled(10_000 + n).labels for n in range(permutations)])
        null.append(_macro(ranks, _onehot(task, wrong)))
    real, most = np.mean(observed, axis=0)[0], np.mean(null, axis=0).max(axis=1)
    return LayerProfile(
        tuple(range(len(real))),
        tuple(real.tolist()),
        float(np.quantile(most, 0.95)),
        float((1 + np.sum(most >= real.max())) / (1 + permutations)),
    )


def _onehot(task: Task, labels: NDArray[np.str_]) -> NDArray[np.float32]:
    """Return the texts of each name as 0 and 1, float32 (names, permutations, texts)."""
    return np.stack([labels == name for name in task.names]).astype(np.float32)


def _macro(ranks: NDArray[np.float64], onehot: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return macro AUROC (permutations, layers) from ranks (texts, layers, names)."""
    areas = []
    for column, chosen in enumerate(onehot):
        n = float(chosen[0].sum())
        if 0 < n < len(ranks) and np.isfinite(ranks[:, :, column]).all():
            won = chosen.astype(np.float64) @ ranks[:, :, column] - n * (n + 1) / 2
            areas.append(won / (n * (len(ranks) - n)))
    return np.asarray(np.mean(areas, axis=0))


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks 1, 2 … along the first axis, NaN kept; scores of a model do not tie."""
    ranks = scores.argsort(axis=0, kind="stable").argsort(axis=0).astype(np.float64) + 1
    return np.where(np.isfinite(scores), ranks, np.nan)


def _areas_of(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the AUROC of each column of scores (texts, columns), NaN without both classes."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m or not np.isfinite(scores).all():
        return np.full(scores.shape[1], np.nan)
    won = _ranks(scores)[positive].sum(axis=0) - n * (n + 1) / 2
    return np.asarray(won / (n * m))


def _mean(areas: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean over corpora, NaN for a target in none of them."""
    stacked = np.array(areas)
    known = np.isfinite(stacked)
    counts = known.sum(axis=0)
    total = np.where(known, stacked, 0).sum(axis=0)
    return np.asarray(np.where(counts, total / np.maximum(counts, 1), np.nan))


def _spread(areas: NDArray[np.float64], probes: NDArray[np.float64]) -> Spread:
    """Return the spread of single areas, and of the means of probes (probes, names)."""
    return Spread(_stray(areas), _stray(np.nanmean(probes, axis=1)))


def _diagonals(areas: NDArray[np.float64], names: int) -> NDArray[np.float64]:
    """Return areas (probes, names), each name read by a direction of its own."""
    whole = len(areas) // names * names
    return np.asarray(np.einsum("pnn->pn", areas[:whole, :names].reshape(-1, names, names)))


def _stray(areas: NDArray[np.float64]) -> float:
    """Return the root mean square of AUROC on the normal scale; .5 is 0 there."""
    known = np.clip(areas[np.isfinite(areas)], 1e-4, 1 - 1e-4)
    scale = np.array([NormalDist().inv_cdf(area) for area in known])
    return float(np.sqrt(np.mean(scale**2)))


def _level(spread: float, error: float) -> float:
    """Return the AUROC that a share `error` of areas of this spread exceeds."""
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(1 - error) * spread)
