"""Prints the numbers of a study: differences in points, rates, p, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NONE = "-"


def table(columns: Sequence[str], rows: Any) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def points(estimate: Sequence[float | None] | None) -> str:
    """Return a difference in points with its interval."""
    if estimate is None:
        return NONE
    value, low, high = estimate
    if value is None or low is None or high is None:
        return NONE if value is None else f"{100 * value:+.1f}"
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def interval(estimate: Sequence[float | None]) -> str:
    """Return a rate with its interval."""
    value, low, high = estimate
    if value is None or low is None or high is None:
        return NONE
    return f"{value:.0%} [{low:.0%}, {high:.0%}]"


def between(values: Sequence[float] | None) -> str:
    """Return the central range of (median, low, high) in points."""
    return NONE if values is None else f"{100 * values[1]:+.1f} … {100 * values[2]:+.1f}"


def p_value(p: float | None) -> str:
    """Return a p, or "<.001" for a smaller one."""
    if p is None:
        return NONE
    return "<.001" if p < 0.001 else f"{p:.3f}"


def number(value: float | None) -> str:
    """Return a number with two decimals."""
    return NONE if value is None else f"{value:.2f}"
