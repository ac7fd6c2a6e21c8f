"""Do alarms come as rarely as certified, and does drift stay quiet until something moves?

Rates. SmolLM2's responses to neutral prompts that no calibration has seen, ended by the model or at
64, 256 or 1,024 tokens (benchmarks/readings.py generates them once; a new probe takes some minutes
to read them). `realised_rate` is the crossings of all labels per 1,000 window positions at the
certified thresholds of --probe, with a bootstrap interval over responses; `realised_lower` is its
one-sided 95 % lower bound (exact Poisson, widened by how crossings cluster in responses), to be
compared with `certified_rate`, the sum of the labels' certified bounds. `labels_above_certificate`
counts labels whose own lower bound exceeds their own certificate.

Drift. Simulated response means of 13 labels, an average run length of 100,000 responses, baselines
of 2,500 responses unless their name says otherwise. `delay_auroc_*` shift a share of one label's
responses so far that they are told from unchanged ones with that AUROC: the median number of
responses to the alarm, beside the least that any detector of that run length could need and the aim
of 3 times that number plus 50. `false_alarms_*` are counted in unchanged streams of 10,000
responses, each with a baseline of its own: independent; AR(1) with phi .5 and .9; independent plus
a daily cycle (sine of amplitude .5 sd and period 1,000 or 5,000 responses); responses that double
or halve in length half-way. `delay_*_0.3` and `_0.6` shift one label by so many sd.
`real_length_doubled` draws from the stored responses of at least 128 tokens: baseline and first
half are their first 64 tokens, then all 128. river's detectors run at their defaults on one label,
response by response, in as many streams: the share that alarm although nothing changed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import readings, streams
from benchmarks.measure import Row, arguments, show
from emoguard import Guard
from emoguard.probe.crossing import count, rolling_mean, windows
from emoguard.probe.identity import ModelIdentity


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    readings.add_options(parser)
    parser.add_argument("--streams", type=int, default=40, help="unchanged ones of each kind")
    parser.add_argument(
        "--simulated", action="store_true", help="only what needs no stored responses"
    )
    options = parser.parse_args()
    rows = [] if options.simulated else stored(options)
    rows += [
        *streams.changed(10 * options.streams),
        *streams.unchanged(options.streams),
        *streams.shifted(2 * options.streams),
    ]
    if importlib.util.find_spec("river"):
        rows += river(options.streams)
    else:
        sys.stderr.write("river is not installed (pip install --group bench): left out\n")
    show("alarms", rows, as_json=options.json)


def stored(options: argparse.Namespace) -> list[Row]:
    """Return the rows measured on SmolLM2's stored responses."""
    guard, held = readings.open_guard(options.probe), readings.HeldOut(options.threads)
    raw = {tokens: held.read(guard.probe, tokens, options.most) for tokens in readings.WANTED}
    return [*rates(guard, held.identity, raw), *real_length(raw, options.streams)]


def rates(guard: Guard, identity: ModelIdentity, raw: dict[int, list[np.ndarray]]) -> Iterator[Row]:
    """Compare realised with certified rates at each length."""
    site = guard.site(identity)
    calibration, thresholds = site.calibration, [site.thresholds.get(name) for name in site.read]
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
    events = int(total / clusters)
    lower = streams.poisson_mean(events - 1, 0.95) if events else 0.0
    return clusters * lower / exposure.sum() * 1000


def bootstrap(crossed: np.ndarray, exposure: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a rate per 1,000 positions, resampling responses."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(crossed), (2000, len(crossed)))
    per_1000 = crossed[drawn].sum(axis=1) / exposure[drawn].sum(axis=1) * 1000
    low, high = np.percentile(per_1000, [2.5, 97.5])
    return float(low), float(high)


def real_length(raw: dict[int, list[np.ndarray]], many: int) -> Iterator[Row]:
    """Double the length of stored responses half-way."""
    long = [rows for responses in raw.values() for rows in responses if len(rows) >= 128]
    if len(long) < 50:
        return
    halves = np.array([rows[:64].mean(axis=0) for rows in long])
    wholes = np.array([rows[:128].mean(axis=0) for rows in long])
    moved = np.abs(wholes.mean(axis=0) - halves.mean(axis=0)) / halves.std(axis=0)
    yield plain("real_length_moves_mean_by", moved.max(), "sd of responses, label with most")
    rng = np.random.default_rng(5)
    baseline, half = streams.BASELINE, streams.RESPONSES // 2
    alarmed = 0
    for _ in range(many):
        first = halves[rng.integers(0, len(long), baseline + half)]
        then = wholes[rng.integers(0, len(long), half)]
        alarmed += any(streams.alarms(np.concatenate([first, then]), baseline, 1))
    yield plain("real_length_doubled", alarmed, f"of {many} streams alarm")


def river(many: int) -> Iterator[Row]:
    """Run river's detectors at their defaults on one label of unchanged streams."""
    from river.drift import ADWIN, KSWIN, PageHinkley

    makers = {"adwin": ADWIN, "page_hinkley": PageHinkley, "kswin": lambda: KSWIN(seed=1)}
    for name, kind in streams.STREAMS.items():
        rng = np.random.default_rng(3)
        columns = kind(rng, 0, 2 * streams.RESPONSES, many).T.tolist()
        for detector, make in makers.items():
            alarmed = sum(_drifts(make(), column) for column in columns)
            yield plain(f"river_{detector}_{name}", alarmed / many, "of streams alarm")


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
