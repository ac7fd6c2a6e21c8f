"""Do alarms come as rarely as certified, and does drift stay quiet until something moves?

Rates. SmolLM2's responses to neutral prompts that no calibration has seen, ended by the model or at
64, 256 or 1,024 tokens (benchmarks/readings.py generates them once; a new probe takes some minutes
to read them). `realised_rate` is the crossings of all labels per 1,000 window positions at the
certified thresholds of --probe, with a bootstrap interval over responses; `realised_lower` is its
one-sided 95 % lower bound (exact Poisson, widened by how crossings cluster in responses), to be
compared with `certified_rate`, the sum of the labels' certified bounds. `labels_above_certificate`
counts labels whose own lower bound exceeds their own certificate.

Drift. Simulated response means of 14 labels, a baseline of 50 blocks of 50 responses, 200 streams
of 20,000 responses each: independent; AR(1) with phi .5 and .9; independent plus a daily cycle
(sine of amplitude .5 sd and period 1,000 responses). `false_alarms_per_100k` counts alarms of
unchanged streams; `delay` is the median number of responses from a shift of one label (after 5,000
responses) to its first alarm. In `length_doubled` a response mean has a part of its own (.3 sd) and
noise that shrinks with its tokens (1 sd per 8 tokens), which double half-way. `real_length_doubled`
draws from the stored responses of at least 128 tokens: baseline and first half are their first 64
tokens, then all 128. river's detectors run at their defaults on one label, response by response, in
as many streams: the share that alarm although nothing changed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_drift import DriftDetector

from benchmarks import readings
from benchmarks.measure import Row, arguments, show
from emoguard import Guard
from emoguard.crossing import count, rolling_mean, windows
from emoguard.identity import ModelIdentity

LABELS = 14
BLOCK = 50
BASELINE = 50
RESPONSES = 20_000
CHANGE = 5_000
PERIOD = 1_000

Stream = Callable[[np.random.Generator, int], np.ndarray]
"""Makes response means (responses, labels) of unit variance."""


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    readings.add_options(parser)
    parser.add_argument("--streams", type=int, default=200)
    options = parser.parse_args()
    guard, held = readings.open_guard(options.probe), readings.HeldOut(options.threads)
    raw = {tokens: held.read(guard.probe, tokens, options.most) for tokens in readings.WANTED}
    rows = [
        *rates(guard, held.identity, raw),
        *drift(options.streams),
        *real_length(raw, options.streams),
    ]
    if importlib.util.find_spec("river"):
        rows += river(options.streams)
    else:
        sys.stderr.write("river is not installed (pip install 'emoguard[bench]'): left out\n")
    show("alarms", rows, as_json=options.json)


def rates(guard: Guard, identity: ModelIdentity, raw: dict[int, list[np.ndarray]]) -> Iterator[Row]:
    """Compare realised with certified rates at each length."""
    calibration, thresholds = guard.calibration(identity), guard.thresholds(identity)
    if calibration is None or not any(thresholds):
        sys.exit(
            f"{guard.probe.name} certifies no threshold on {identity.name} "
            f"({identity.quantisation}): run emoguard calibrate, and give its file as --probe"
        )
    certified = [n for n, threshold in enumerate(thresholds) if threshold is not None]
    bounds = np.array([thresholds[n].bound for n in certified])
    levels = np.array([thresholds[n].level for n in certified])
    yield plain("labels_certified", len(certified), f"of {len(thresholds)}")
    yield plain("stated_rate", guard.policy.alarms.rate_per_1000_tokens, "per 1,000 tokens")
    yield plain("certified_rate", bounds.sum(), "per 1,000 positions")
    alarms = guard.policy.alarms
    for tokens, responses in raw.items():
        if not responses:
            continue
        z = [(rows - calibration.location) / calibration.scale for rows in responses]
        crossed = np.array(
            [
                count(
                    rolling_mean(rows[:, certified], alarms.window_tokens),
                    levels,
                    alarms.hysteresis_sd,
                )
                for rows in z
            ]
        )
        exposure = np.array([windows(len(rows), alarms.window_tokens) for rows in z])
        low, high = bootstrap(crossed.sum(axis=1), exposure)
        family = crossed.sum() / exposure.sum() * 1000
        yield plain(
            f"responses_{tokens}", len(z), f"{np.mean([len(r) for r in z]):.0f} tokens mean"
        )
        yield Row(f"realised_rate_{tokens}", family, low, high, "per 1,000 positions")
        lower = lower_rate(crossed.sum(axis=1), exposure)
        yield plain(f"realised_lower_{tokens}", lower, "per 1,000 positions")
        tokens_in_all = sum(len(rows) for rows in z)
        per_token = crossed.sum() / tokens_in_all * 1000
        yield plain(f"realised_per_token_{tokens}", per_token, "per 1,000 tokens")
        lowers = [lower_rate(crossed[:, n], exposure) for n in range(len(certified))]
        above = int((np.array(lowers) > bounds).sum())
        yield plain(f"labels_above_certificate_{tokens}", above, f"of {len(certified)}")
        repeats = crossed.sum(axis=0) / np.maximum((crossed > 0).sum(axis=0), 1)
        yield plain(f"crossings_per_flagged_response_{tokens}", repeats.max(), "label with most")


def lower_rate(crossed: np.ndarray, exposure: np.ndarray) -> float:
    """Return the one-sided 95 % lower bound of a rate per 1,000, allowing for clusters."""
    total = int(crossed.sum())
    if not total:
        return 0.0
    clusters = max(1.0, float((crossed**2).sum() / total))
    return clusters * lower_bound(int(total / clusters)) / exposure.sum() * 1000


def lower_bound(events: int) -> float:
    """Return the exact one-sided 95 % lower bound of a Poisson mean: there P(>= events) = .05."""
    low, high = 0.0, float(events)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, max(events, 1))))])[:events]
    n = np.arange(events)
    for _ in range(60):
        middle = (low + high) / 2
        fewer = np.exp(n * math.log(middle) - middle - logs).sum() if middle else 1.0
        low, high = (middle, high) if 1 - fewer < 0.05 else (low, middle)
    return low


def bootstrap(crossed: np.ndarray, exposure: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a rate per 1,000 positions, resampling responses."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(crossed), (2000, len(crossed)))
    found = crossed[drawn].sum(axis=1) / exposure[drawn].sum(axis=1) * 1000
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def independent(rng: np.random.Generator, responses: int) -> np.ndarray:
    """Return independent means."""
    return rng.normal(size=(responses, LABELS))


def autoregressive(phi: float) -> Stream:
    """Return AR(1) streams."""

    def made(rng: np.random.Generator, responses: int) -> np.ndarray:
        noise = rng.normal(size=(responses, LABELS)) * math.sqrt(1 - phi**2)
        noise[0] /= math.sqrt(1 - phi**2)
        for n in range(1, responses):
            noise[n] += phi * noise[n - 1]
        return noise

    return made


def daily(rng: np.random.Generator, responses: int) -> np.ndarray:
    """Return independent means on a daily cycle."""
    phase = rng.uniform(0, 2 * math.pi)
    cycle = 0.5 * np.sin(2 * math.pi * np.arange(responses) / PERIOD + phase)
    return rng.normal(size=(responses, LABELS)) + cycle[:, None]


def lengthened(rng: np.random.Generator, responses: int) -> np.ndarray:
    """Return means of responses that double in length half-way through what follows a baseline."""
    tokens = np.where(np.arange(responses) < BASELINE * BLOCK + RESPONSES // 2, 64, 128)
    own = 0.3 * rng.normal(size=(responses, LABELS))
    return own + rng.normal(size=(responses, LABELS)) / np.sqrt(tokens / 8)[:, None]


STREAMS: dict[str, Stream] = {
    "independent": independent,
    "ar_5": autoregressive(0.5),
    "daily": daily,
    "ar_9": autoregressive(0.9),
}


def blocks(means: np.ndarray) -> np.ndarray:
    """Return the means of blocks (blocks, labels)."""
    whole = len(means) // BLOCK * BLOCK
    return means[:whole].reshape(-1, BLOCK, means.shape[1]).mean(axis=1)


def alarms(stream: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    """Return (block, labels) of each alarm after the baseline that a stream starts with."""
    found = blocks(stream)
    detector = DriftDetector(found[:BASELINE])
    raised = ((n, detector.update(means)) for n, means in enumerate(found[BASELINE:]))
    return [(n, labels) for n, labels in raised if labels]


def drift(streams: int) -> Iterator[Row]:
    """Count false alarms and measure delays in each kind of stream."""
    for name, kind in {**STREAMS, "length_doubled": lengthened}.items():
        rng = np.random.default_rng([len(name), 1])
        found = [alarms(kind(rng, BASELINE * BLOCK + RESPONSES)) for _ in range(streams)]
        false = sum(len(labels) for each in found for _, labels in each)
        yield plain(
            f"false_alarms_per_100k_{name}",
            false / (streams * RESPONSES) * 100_000,
            f"per 100,000 responses; {sum(map(bool, found))} of {streams} streams",
        )
    for name, kind in STREAMS.items():
        for shift in (0.3, 0.6):
            yield delay(name, kind, shift, streams)


def delay(name: str, kind: Stream, shift: float, streams: int) -> Row:
    """Return the median delay to the first alarm of the label that moved."""
    rng = np.random.default_rng([len(name), int(shift * 10)])
    start = BASELINE * BLOCK + CHANGE
    delays: list[float] = []
    for _ in range(streams):
        stream = kind(rng, start + 15_000)
        stream[start:, 0] += shift
        after = [n * BLOCK + BLOCK - CHANGE for n, labels in alarms(stream) if 0 in labels]
        delays.append(min((n for n in after if n > 0), default=math.inf))
    low, high = np.quantile(delays, [0.025, 0.975], method="nearest")
    missed = sum(map(math.isinf, delays))
    told = f"responses (95 % of streams); {missed} of {streams} not within 15,000"
    return Row(f"delay_{name}_{shift}", float(np.median(delays)), float(low), float(high), told)


def real_length(raw: dict[int, list[np.ndarray]], streams: int) -> Iterator[Row]:
    """Double the length of stored responses half-way."""
    long = [rows for responses in raw.values() for rows in responses if len(rows) >= 128]
    if len(long) < 50:
        return
    halves = np.array([rows[:64].mean(axis=0) for rows in long])
    wholes = np.array([rows[:128].mean(axis=0) for rows in long])
    moved = np.abs(wholes.mean(axis=0) - halves.mean(axis=0)) / halves.std(axis=0)
    yield plain("real_length_moves_mean_by", moved.max(), "sd of responses, label with most")
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(streams):
        first = halves[rng.integers(0, len(long), BASELINE * BLOCK + RESPONSES // 2)]
        then = wholes[rng.integers(0, len(long), RESPONSES // 2)]
        found += bool(alarms(np.concatenate([first, then])))
    yield plain("real_length_doubled", found, f"of {streams} streams alarm")


def river(streams: int) -> Iterator[Row]:
    """Run river's detectors at their defaults on one label of unchanged streams."""
    from river.drift import ADWIN, KSWIN, PageHinkley

    makers = {"adwin": ADWIN, "page_hinkley": PageHinkley, "kswin": lambda: KSWIN(seed=1)}
    for name, kind in STREAMS.items():
        rng = np.random.default_rng(3)
        many = [kind(rng, RESPONSES)[:, 0].tolist() for _ in range(streams)]
        for detector, make in makers.items():
            found = sum(_drifts(make(), stream) for stream in many)
            yield plain(f"river_{detector}_{name}", found / streams, "of streams alarm")


def _drifts(detector: Any, stream: Sequence[float]) -> bool:
    for value in stream:
        detector.update(value)
        if detector.drift_detected:
            return True
    return False


def plain(name: str, value: float, unit: str) -> Row:
    """Return a figure without an interval."""
    return Row(name, float(value), None, None, unit)


if __name__ == "__main__":
    main()
