"""Simulated streams of response means, changed and unchanged, and the alarms of drift on them.

A detector treats each label alone and shares its run length among them. So many streams run side by
side as the labels of one detector, each with a baseline of its own, at the limit that one stream of
`LABELS` labels would have.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_drift import DriftDetector

from benchmarks.measure import Row

LABELS = 13
ARL = 100_000
BASELINE = 2500
SHORTEST = 1000
RESPONSES = 10_000
PERIOD = 1000
WARM = 500
"""Responses before a change."""

MOST_DELAY = 15_000
REST = ARL // 100

Stream = Callable[[np.random.Generator, int, int, int], np.ndarray]
"""Makes response means (responses, labels) for the length of a baseline, the number of responses
after it and the number of labels."""


def independent(rng: np.random.Generator, baseline: int, after: int, labels: int) -> np.ndarray:
    """Return independent means of unit variance."""
    return rng.normal(size=(baseline + after, labels))


def autoregressive(phi: float) -> Stream:
    """Return AR(1) streams of unit variance."""

    def stream(rng: np.random.Generator, baseline: int, after: int, labels: int) -> np.ndarray:
        means = rng.normal(size=(baseline + after, labels)) * math.sqrt(1 - phi**2)
        means[0] /= math.sqrt(1 - phi**2)
        for n in range(1, len(means)):
            means[n] += phi * means[n - 1]
        return means

    return stream


def daily(period: int) -> Stream:
    """Return independent means on a sine of amplitude .5 sd, its phase drawn for each stream."""

    def stream(rng: np.random.Generator, baseline: int, after: int, labels: int) -> np.ndarray:
        phases = np.repeat(rng.uniform(0, 2 * math.pi, -(-labels // LABELS)), LABELS)[:labels]
        turns = 2 * math.pi / period * np.arange(baseline + after)[:, None]
        return rng.normal(size=(baseline + after, labels)) + 0.5 * np.sin(turns + phases)

    return stream


def lengthened(before: int, then: int) -> Stream:
    """Return means of responses whose tokens go from `before` to `then` half-way.

    Each has a part of its own (.3 sd) and noise that shrinks with its tokens (1 sd per 8).
    """

    def stream(rng: np.random.Generator, baseline: int, after: int, labels: int) -> np.ndarray:
        tokens = np.where(np.arange(baseline + after) < baseline + after // 2, before, then)
        own = 0.3 * rng.normal(size=(len(tokens), labels))
        return own + rng.normal(size=(len(tokens), labels)) / np.sqrt(tokens / 8)[:, None]

    return stream


STREAMS: dict[str, Stream] = {
    "independent": independent,
    "ar_5": autoregressive(0.5),
    "daily": daily(PERIOD),
    "ar_9": autoregressive(0.9),
}
UNCHANGED = {
    **STREAMS,
    "length_doubled": lengthened(64, 128),
    "length_halved": lengthened(128, 64),
}


def alarms(means: np.ndarray, baseline: int, streams: int) -> Iterator[tuple[int, int]]:
    """Yield (response after the baseline, column) of each alarm in `streams` streams.

    A column alarms again only after the rest that the detector of one stream would take.
    """
    detector = DriftDetector(means[:baseline], arl=ARL / streams)
    quiet = np.zeros(means.shape[1], int)
    for n, row in enumerate(means[baseline:]):
        for column in detector.update(row):
            if n >= quiet[column]:
                quiet[column] = n + REST
                yield n, column


def unchanged(streams: int) -> Iterator[Row]:
    """Count false alarms in each kind of unchanged stream, with the shortest and a usual baseline.

    A long cycle needs a longer baseline: here, five cycles.
    """
    for baseline in (SHORTEST, BASELINE):
        for name, kind in UNCHANGED.items():
            yield false_alarms(f"{name}_baseline_{baseline}", kind, baseline, streams)
    yield false_alarms("daily_of_5000_baseline_25000", daily(5000), 25_000, max(1, streams // 5))


def false_alarms(name: str, kind: Stream, baseline: int, streams: int) -> Row:
    """Return the false alarms per 100,000 responses with their exact Poisson interval."""
    rng = np.random.default_rng([len(name), 1])
    means = kind(rng, baseline, RESPONSES, streams * LABELS)
    columns = [column for _, column in alarms(means, baseline, streams)]
    responses = streams * RESPONSES
    per = 100_000 / responses
    low, high = (each * per for each in poisson_interval(len(columns)))
    alarmed = len({column // LABELS for column in columns})
    unit = (
        f"per 100,000; {len(columns)} alarms in {responses:,} responses, "
        f"{alarmed} of {streams} streams"
    )
    return Row(f"false_alarms_{name}", len(columns) * per, low, high, unit)


def changed(streams: int) -> Iterator[Row]:
    """Measure the delay of a changed share of independent responses beside the least possible."""
    for auroc in (0.72, 0.8, 0.9):
        shift = math.sqrt(2) * NormalDist().inv_cdf(auroc)
        for share in (0.25, 0.5, 1.0):
            delays = delay(independent, shift, share, streams)
            least = limit(shift, share)
            ratio, aim = np.median(delays) / least, 3 * least + 50
            unit = f"limit {least:.0f}, {ratio:.1f} times; aim {aim:.0f}"
            yield delay_row(f"delay_auroc_{auroc}_share_{share}", delays, unit)


def shifted(streams: int) -> Iterator[Row]:
    """Measure the delay of a shift of all responses in each kind of stream."""
    for name, kind in STREAMS.items():
        for shift in (0.3, 0.6):
            yield delay_row(f"delay_{name}_{shift}", delay(kind, shift, 1.0, streams), "")


def limit(shift: float, share: float, arl: float = ARL, labels: int = LABELS) -> float:
    """Return log(arl labels) / KL: responses before which no detector of this run length alarms.

    KL is that of (1 - share) N(0, 1) + share N(shift, 1) from N(0, 1), in nats per response.

    >>> [round(limit(math.sqrt(2) * NormalDist().inv_cdf(0.8), share)) for share in (0.25, 1)]
    [233, 20]
    """
    z, step = np.linspace(-8, 8 + shift, 20_001, retstep=True)
    usual = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    ratio = 1 - share + share * np.exp(shift * z - shift**2 / 2)
    return math.log(arl * labels) / float((usual * ratio * np.log(ratio)).sum() * step)


def delay(kind: Stream, shift: float, share: float, streams: int) -> np.ndarray:
    """Return the number of responses from a change of one label to its alarm, inf if none comes."""
    rng = np.random.default_rng([1, round(1000 * shift), round(100 * share)])
    means = kind(rng, BASELINE, WARM + MOST_DELAY, streams)
    after = means[BASELINE + WARM :]
    after += shift * (rng.random(after.shape) < share)
    delays = np.full(streams, math.inf)
    for n, column in alarms(means, BASELINE, -(-streams // LABELS)):
        if n >= WARM:
            delays[column] = min(delays[column], n - WARM + 1)
            if np.all(np.isfinite(delays)):
                break
    return delays


def delay_row(name: str, delays: np.ndarray, unit: str) -> Row:
    """Return the median delay, with the range of 80 % of the streams in place of an interval."""
    low, middle, high = np.quantile(delays, [0.1, 0.5, 0.9], method="nearest")
    missed = int(np.isinf(delays).sum())
    late = f"{missed} of {len(delays)} not within {MOST_DELAY:,}" if missed else ""
    where = "responses [10 %, 90 % of streams]"
    return Row(name, middle, low, high, "; ".join(filter(None, [where, unit, late])))


def poisson_interval(events: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson mean (Garwood, 1936).

    >>> [round(bound, 2) for bound in poisson_interval(3)]
    [0.62, 8.77]
    """
    lower = poisson_mean(events - 1, 0.975) if events else 0.0
    return lower, poisson_mean(events, 0.025)


def poisson_mean(most: int, probability: float) -> float:
    """Return the mean of a Poisson variable that is at most `most` with this probability."""
    low, high = 0.0, most + 20 * math.sqrt(most + 1) + 20
    counts = np.arange(most + 1)
    logs = np.array([math.lgamma(n + 1) for n in counts])
    for _ in range(80):
        middle = (low + high) / 2
        below = np.exp(counts * math.log(middle) - middle - logs).sum()
        low, high = (middle, high) if below > probability else (low, middle)
    return low
