"""Computes paired statistics over items: differences, randomisation, equivalence, corrections.

The unit is a cluster (a fact, a prompt): whole clusters are drawn and flipped, never answers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.validate.estimate import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHA = 0.05
"""Level of every test."""

RESAMPLES = 10_000

FLIPS = 10_000

Z80 = 0.8416212
"""Quantile of a power of .8."""


@dataclass(frozen=True, eq=False)
class Paired:
    """Differences between two conditions on the same items, averaged within clusters.

    `means` (clusters,) are the mean differences of the clusters, `sizes` (clusters,) their numbers
    of items.
    """

    means: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @classmethod
    def of(cls, differences: NDArray[np.floating], clusters: Sequence[str]) -> Paired:
        """Group differences (items,) by the names of their clusters; NaN is left out."""
        kept = np.isfinite(differences)
        names, inverse = np.unique(np.asarray(clusters)[kept], return_inverse=True)
        sizes = np.bincount(inverse, minlength=len(names)).astype(np.float64)
        totals = np.bincount(inverse, differences[kept], minlength=len(names))
        return cls(totals / np.maximum(sizes, 1), sizes)

    @property
    def items(self) -> int:
        """Return the number of items."""
        return int(self.sizes.sum())

    @property
    def clusters(self) -> int:
        """Return the number of clusters."""
        return len(self.sizes)

    @property
    def mean(self) -> float:
        """Return the mean difference over items; NaN without any."""
        total = self.sizes.sum()
        return float(self.means @ self.sizes / total) if total else float("nan")

    @property
    def error(self) -> float:
        """Return the standard error of the mean, clusters as units (ratio estimator)."""
        k = self.clusters
        if k < 2:
            return float("inf")
        residuals = self.sizes * (self.means - self.mean)
        return float(np.sqrt(k / (k - 1) * (residuals**2).sum()) / self.sizes.sum())

    @property
    def variance(self) -> float:
        """Return the variance of a single difference if n items were independent, n·error².

        For verdicts without clusters it is about the share of discordant items; correlated items of
        a cluster make it larger.
        """
        return self.error**2 * self.items if self.clusters > 1 else 0.0

    def estimate(self, resamples: int = RESAMPLES) -> Estimate:
        """Return the mean with its 95 % percentile bootstrap interval over clusters.

        Percentiles are widened by √(k/(k-1)) and from normal to t (Hesterberg 2015, "expanded
        percentile"): with few clusters plain ones are too narrow.
        """
        if self.clusters < 2:
            return Estimate(self.mean, float("-inf"), float("inf"))
        weights = draws(self.clusters, resamples)
        # Column-wise products in float32 are exact enough: percentiles of 10,000 are not.
        sums = weights @ np.stack([self.means * self.sizes, self.sizes], axis=1).astype(np.float32)
        drawn = sums[:, 0] / np.maximum(sums[:, 1], 1e-12)
        low, high = np.quantile(drawn, expanded(self.clusters))
        return Estimate(self.mean, float(low), float(high))

    def p(self, flips: int = FLIPS) -> float:
        """Return the two-sided p of no difference: signs of whole clusters flipped at random.

        (1 + number of flips that reach it) / (flips + 1); 1 where nothing differs.
        """
        totals = (self.means * self.sizes).astype(np.float32)
        if not totals.any():
            return 1.0
        reached = np.abs(signs(self.clusters, flips) @ totals)
        # Ties of whole numbers must count as reached in float32, too.
        least = abs(float(totals.astype(np.float64).sum())) * (1 - 1e-5)
        return float((1 + np.sum(reached >= least)) / (flips + 1))


def expanded(clusters: int) -> tuple[float, float]:
    """Return the two quantile levels of an expanded 95 % percentile interval."""
    from scipy import stats  # noqa: PLC0415  (half a second, and only where something is judged)

    z = np.sqrt(clusters / (clusters - 1)) * stats.t.ppf(0.975, clusters - 1)
    high = float(stats.norm.cdf(z))
    return 1 - high, high


@functools.lru_cache(maxsize=8)
def draws(clusters: int, resamples: int = RESAMPLES) -> NDArray[np.float32]:
    """Return the count of each cluster in each resample, (resamples, clusters), seeded."""
    rng = np.random.default_rng([0, clusters])
    shares = np.full(clusters, 1 / clusters)
    return rng.multinomial(clusters, shares, size=resamples).astype(np.float32)


@functools.lru_cache(maxsize=8)
def signs(clusters: int, flips: int = FLIPS) -> NDArray[np.float32]:
    """Return random signs, (flips, clusters), seeded."""
    rng = np.random.default_rng([1, clusters])
    return rng.choice(np.array([-1, 1], np.float32), size=(flips, clusters))


@dataclass(frozen=True)
class NoHarm:
    """Whether a change lies within a margin, by one-sided tests at .05 (Schuirmann 1987).

    `needed` is the number of items of this variance that would show the margin with a power of .8,
    if there is no true change.
    """

    p: float
    needed: int


def no_harm(
    differences: NDArray[np.floating], clusters: Sequence[str], low: float, high: float
) -> NoHarm:
    """Test that the mean of differences (items,) lies in (`low`, `high`).

    `low` is -inf if only an increase would be harm.

    The standard error is that of cluster means, t-distributed, and not less than that of one
    discordant item in either direction: no discordance among n items is no proof without error.
    """
    from scipy import stats  # noqa: PLC0415

    paired = Paired.of(differences, clusters)
    margin = high if np.isinf(low) else min(-low, high)
    needed = needed_items(margin, paired.variance, both=bool(np.isfinite(low)))
    if paired.clusters < 2:
        return NoHarm(1.0, needed)
    error = max(paired.error, np.sqrt(2) / paired.items)
    p = float(stats.t.sf((high - paired.mean) / error, paired.clusters - 1))
    if np.isfinite(low):
        p = max(p, float(stats.t.sf((paired.mean - low) / error, paired.clusters - 1)))
    return NoHarm(p, needed)


def needed_items(margin: float, variance: float, *, both: bool = True) -> int:
    """Return the number of paired items that show a margin with power .8 without a true difference.

    n = v (z.95 + z)² / margin², z that of .9 for two one-sided tests (both must succeed), of .8
    for one. The variance v of verdicts is the share of discordant pairs, taken as at least .01.
    """
    power = 1.2815516 if both else Z80
    return int(np.ceil(max(variance, 0.01) * (1.6448536 + power) ** 2 / margin**2))


def seeing_items(size: float, variance: float) -> int:
    """Return the number of paired items that show a difference of `size` at .05 with power .8."""
    return int(np.ceil(max(variance, 0.01) * (1.959964 + Z80) ** 2 / size**2))


def detectable(items: int, variance: float) -> float:
    """Return the difference that a paired test at .05 finds with power .8."""
    return float((1.959964 + Z80) * np.sqrt(max(variance, 0.01) / max(items, 1)))


def against(observed: float, null: NDArray[np.floating]) -> float:
    """Return the p of an effect among those of random directions.

    (1 + #{|null| ≥ |observed|}) / (K + 1): how many move as far, to either side. One that moves
    nothing stands out from none, whatever they do.
    """
    reached = np.abs(null) >= abs(observed) - 1e-12
    return float((1 + np.sum(reached)) / (1 + len(null)))


def proportion(hits: int, of: int) -> Estimate:
    """Return a share with Wilson's interval, at 0 and at all hits with Clopper and Pearson's."""
    from scipy import stats  # noqa: PLC0415

    if not of:
        return Estimate(float("nan"), 0.0, 1.0)
    method = "exact" if hits in {0, of} else "wilson"
    interval = stats.binomtest(hits, of).proportion_ci(method=method)
    return Estimate(hits / of, float(interval.low), float(interval.high))


def holm(p: Sequence[float]) -> list[float]:
    """Return p adjusted by Holm (1979): the family's error rate stays below the level of each."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Return p adjusted by Benjamini and Hochberg (1995): the share of false discoveries."""
    order = np.argsort(p, kind="stable")[::-1]
    steps = np.asarray(p)[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.minimum.accumulate(steps))
    return adjusted.tolist()


@dataclass(frozen=True)
class Detection:
    """The discrimination of the two sides of pairs: d', and the bias c towards one answer.

    From hits and false alarms with the log-linear correction (Hautus 1995). "Agrees with all" has
    d' = 0 and a negative c.
    """

    d: float
    c: float


def detection(hits: NDArray[np.floating], alarms: NDArray[np.floating]) -> Detection:
    """Return d' and c of yes (1) to the positive side, `hits`, and to the other, `alarms`."""
    from scipy import stats  # noqa: PLC0415

    rates = [(float(np.sum(each)) + 0.5) / (len(each) + 1) for each in (hits, alarms)]
    one, other = stats.norm.ppf(rates)
    return Detection(float(one - other), float(-(one + other) / 2))


@dataclass(frozen=True)
class JudgeAccuracy:
    """A judge against labels by hand: sensitivity, specificity, and their counts."""

    sensitivity: Estimate
    specificity: Estimate
    kappa: float
    ac1: float
    items: int

    @property
    def youden(self) -> float:
        """Return sensitivity + specificity - 1, the factor by which a judge shrinks differences."""
        return self.sensitivity.value + self.specificity.value - 1

    @property
    def confirmatory(self) -> bool:
        """Return whether agreement is good enough for more than exploration.

        AC1 of .6 and at least a moderate κ, .4: with rare positives AC1 alone is high for a judge
        that hardly ever finds one.
        """
        return self.ac1 >= 0.6 and self.kappa >= 0.4

    def corrected_difference(self, difference: Estimate, draws: int = 2000) -> Estimate:
        """Return a difference of rates corrected for the judge's errors (Rogan and Gladen 1978).

        The interval carries the uncertainty of sensitivity and specificity: both are drawn from
        their beta posteriors, the difference from a normal around its estimate.
        """
        rng = np.random.default_rng(0)
        positives = max(1, round(self.items * self._share))
        negatives = max(1, self.items - positives)
        beta = rng.beta
        sens = beta(*_counts(self.sensitivity.value, positives), draws)
        spec = beta(*_counts(self.specificity.value, negatives), draws)
        error = (difference.high - difference.low) / (2 * 1.959964)
        if not np.isfinite(error):  # of a single cluster nothing more is known
            return Estimate(float(np.clip(difference.value / self.youden, -1, 1)), -1.0, 1.0)
        slope = sens + spec - 1
        drawn = rng.normal(difference.value, error, draws) / np.where(slope > 0.05, slope, np.nan)
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        value, low, high = np.clip([difference.value / self.youden, low, high], -1, 1)
        return Estimate(float(value), float(low), float(high))

    _share: float = 0.5
    """Share of the hand-labelled answers that are positive."""


def _counts(share: float, of: int) -> tuple[float, float]:
    return share * of + 0.5, (1 - share) * of + 0.5


def judge_accuracy(verdicts: NDArray[np.bool_], truth: NDArray[np.bool_]) -> JudgeAccuracy:
    """Return the agreement of a judge's verdicts with labels by hand, both (answers,)."""
    yes, no = int(truth.sum()), int((~truth).sum())
    return JudgeAccuracy(
        proportion(int((verdicts & truth).sum()), yes),
        proportion(int((~verdicts & ~truth).sum()), no),
        kappa(verdicts, truth),
        ac1(verdicts, truth),
        len(truth),
        yes / max(1, len(truth)),
    )


def kappa(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return Cohen's κ of two yes/no verdicts (answers,); NaN if neither ever varies."""
    same, p, q = np.mean(one == other), one.mean(), other.mean()
    chance = p * q + (1 - p) * (1 - q)
    return float((same - chance) / (1 - chance)) if chance < 1 else float("nan")


def ac1(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return Gwet's AC1 (2008), which stays meaningful if nearly all verdicts are the same."""
    share = (one.mean() + other.mean()) / 2
    chance = 2 * share * (1 - share)
    return float((np.mean(one == other) - chance) / (1 - chance))


@dataclass(frozen=True)
class Curve:
    """A dose-response curve: the shape that fits better, and both fits.

    `slope` and `curvature` are those of effect = slope·d + curvature·d² with their standard errors;
    `monotone` is the correlation of rank between dose and effect; `shape` was decided by AICc
    between the line and the parabola, both through 0; at fewer than five doses it cannot decide.
    """

    slope: float
    curvature: float
    slope_error: float
    curvature_error: float
    monotone: float
    shape: str


def curve(doses: NDArray[np.floating], effects: NDArray[np.floating]) -> Curve:
    """Fit effects (doses, clusters) at `doses` (doses,) by a line and by a parabola through 0.

    Errors are between clusters: the curve is fitted to each cluster and coefficients are averaged.
    """
    from scipy import stats  # noqa: PLC0415

    x = np.stack([doses, doses**2], axis=1)
    each = np.linalg.lstsq(x, effects, rcond=None)[0]
    clusters = each.shape[1]
    errors = each.std(axis=1, ddof=1) / np.sqrt(clusters) if clusters > 1 else np.full(2, np.inf)
    mean = effects.mean(axis=1)
    line = _aicc(x[:, :1], mean)
    parabola = _aicc(x, mean)
    shape = "quadratic" if parabola < line else "monotone"
    monotone = float(stats.spearmanr(doses, mean).statistic) if np.ptp(mean) else 0.0
    return Curve(
        float(each[0].mean()),
        float(each[1].mean()),
        float(errors[0]),
        float(errors[1]),
        monotone,
        shape if np.isfinite(parabola) else "undecided",
    )


def _aicc(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Return Akaike's criterion of a fit of y (n,), corrected for a small n; infinite for too few.

    Its parameters are the coefficients and the variance.
    """
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    n, k = len(y), x.shape[1] + 1
    rss = max(float(((y - fitted) ** 2).sum()), 1e-12)
    correction = 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf
    return float(n * np.log(rss / n) + 2 * k + correction)
