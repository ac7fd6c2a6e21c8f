"""What do sinks cost?

Method. Different reports of 14 labels go to all four sinks of EmoGuard: `rate` with certified
thresholds, `drift` with a baseline, `prometheus` with everything it can export, `jsonl` with its
key; checkpoints, rotation and fsync included. `cost` is CPU time of this process per response,
batch by batch; `all` is the four one after the other. `page` is the time of one GET of `/metrics`
over loopback, `series` the samples in it, `rss_growth` what resident memory gained over further
responses.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from emoguard_drift import DriftMonitor
from emoguard_jsonl import AuditLog
from emoguard_jsonl.key import Key
from emoguard_prometheus import PrometheusExporter, serve
from emoguard_rate import RateMonitor
from prometheus_client import generate_latest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import Row, arguments, median, show
from emoguard.records import LabelScore, Report
from emoguard.sinks.baseline import Baseline
from emoguard.sinks.protocols import Sink
from emoguard.testing import make_report

LABELS = tuple(f"label{n}" for n in range(14))
BATCH = 500


def reports(count: int) -> list[Report]:
    """Return reports that differ in their scores; one label in 200 crosses its threshold."""
    rng, report = np.random.default_rng(0), make_report()
    means, crossed = rng.normal(size=(count, len(LABELS))), rng.random((count, len(LABELS))) < 0.005
    return [
        dataclasses.replace(
            report,
            id=f"request-{n}",
            scores={
                label: LabelScore(float(mean), float(mean) + 1, 0.5, int(over))
                for label, mean, over in zip(LABELS, means[n], crossed[n], strict=True)
            },
        )
        for n in range(count)
    ]


@contextmanager
def opened(folder: Path, usual: Sequence[Report]) -> Iterator[dict[str, Sink]]:
    """Open the four sinks, joined as a policy joins them."""
    rate = RateMonitor(dict.fromkeys(LABELS, 0.07), state=folder / "rate.json")
    drift = DriftMonitor(Baseline.learn(usual), state=folder / "drift.json")
    log = AuditLog(folder / "audit.jsonl", Key(bytes(range(32))))
    exporter = PrometheusExporter(
        emotions=LABELS, model="fake", targets=dict.fromkeys(LABELS, 1e-4)
    )
    exporter.join([rate, drift, log, exporter])
    try:
        yield {"rate": rate, "drift": drift, "prometheus": exporter, "jsonl": log}
    finally:
        for sink in (exporter, log, drift, rate):
            sink.close()


def cost(name: str, sinks: Sequence[Sink], stored: Sequence[Report]) -> Row:
    """Return the CPU time of a report in all of `sinks`, in microseconds."""
    spent = []
    for start in range(0, len(stored), BATCH):
        batch = stored[start : start + BATCH]
        began = time.process_time()
        for report in batch:
            for sink in sinks:
                sink.report(report)
        spent.append((time.process_time() - began) / len(batch) * 1e6)
    return median(f"cost_{name}", spent, "us per response")


def page(exporter: PrometheusExporter) -> Iterator[Row]:
    """Measure the time and the size of a scrape."""
    spent = []
    with serve(exporter, 0) as server:
        for _ in range(50):
            began = time.perf_counter()
            urllib.request.urlopen(server.url).read()
            spent.append((time.perf_counter() - began) * 1e3)
    lines = generate_latest(exporter.registry).decode().splitlines()
    yield median("page", spent, "ms")
    yield Row("series", sum(not line.startswith("#") for line in lines), None, None, "series")


def growth(sinks: Sequence[Sink], stored: Sequence[Report], count: int) -> Row:
    """Return the growth of memory over `count` further reports."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    for n in range(count):
        for sink in sinks:
            sink.report(stored[n % len(stored)])
    gc.collect()
    gained = (process.memory_info().rss - before) / 2**20
    return Row("rss_growth", gained, None, None, f"MiB over {count:,} responses")


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--reports", type=int, default=10_000)
    parser.add_argument("--growth", type=int, default=100_000)
    options = parser.parse_args()
    stored = reports(options.reports)
    usual = reports(2500)
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), usual) as sinks:
        every = list(sinks.values())
        rows = [cost(name, [sink], stored) for name, sink in sinks.items()]
        rows += [cost("all", every, stored), *page(sinks["prometheus"])]
        rows.append(growth(every, stored, options.growth))
    show("sinks", rows, as_json=options.json)


if __name__ == "__main__":
    main()
