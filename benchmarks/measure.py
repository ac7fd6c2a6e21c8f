"""Measures for every benchmark: paired, interleaved, medians with bootstrap intervals."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One figure with its 95 % interval (None where it is a plain count or a single reading)."""

    name: str
    value: float
    low: float | None
    high: float | None
    unit: str


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the parser every benchmark starts from."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def paired(name: str, plain: Sequence[float], watched: Sequence[float], unit: str = "ms") -> Row:
    """Return the median of paired differences (watched - plain) and its bootstrap interval."""
    return median(name, np.asarray(watched) - np.asarray(plain), unit)


def median(name: str, values: Sequence[float] | np.ndarray, unit: str) -> Row:
    """Return the median of `values` with a percentile bootstrap interval over 4,000 resamples."""
    array = np.asarray(values, float)
    rng = np.random.default_rng(0)
    resampled = np.median(rng.choice(array, (4000, len(array))), axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Row(name, float(np.median(array)), float(low), float(high), unit)


def per_token(
    name: str,
    base: str,
    before: Sequence[float],
    after: Sequence[float],
    first: tuple[Sequence[float], Sequence[float]],
) -> list[Row]:
    """Return rows for the cost of a token, in ms and per `base` token, and of the first one."""
    share = 100 * (np.array(after) - np.array(before)) / np.median(before)
    return [
        paired(f"{name}_ms", before, after),
        median(f"{name}_percent", share, "%"),
        median(f"{name}_token_ms_{base}", before, "ms"),
        paired(f"{name}_first_token_ms", *first),
    ]


def interleave(
    plain: Callable[[], float], watched: Callable[[], float], pairs: int, label: str = ""
) -> tuple[list[float], list[float]]:
    """Run both `pairs` times, one after the other, the first of each pair drawn by turns."""
    results: tuple[list[float], list[float]] = ([], [])
    start = time.monotonic()
    for pair in range(pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        for side in order:
            results[side].append((plain, watched)[side]())
        if sys.stderr.isatty():
            spent = time.monotonic() - start
            sys.stderr.write(f"\r{label} pair {pair + 1}/{pairs}, {spent:.0f} s")
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    return results


def show(benchmark: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print the table, or one JSON object for CI and scripts."""
    if as_json:
        print(json.dumps({"benchmark": benchmark, "rows": [asdict(row) for row in rows]}))
        return
    width = max(len(row.name) for row in rows)
    print(f"{benchmark}\n{'':{width}}  {'median':>12}  95 % interval")
    for row in rows:
        interval = "" if row.low is None else f"[{row.low:.4g}, {row.high:.4g}]"
        print(f"{row.name:{width}}  {row.value:>12.4g}  {interval:24} {row.unit}")
