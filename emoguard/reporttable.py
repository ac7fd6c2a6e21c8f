"""Formats a report for people: a table of its labels, notes on the reading, its tokens in colour.

Reports are taken as they are: `emoguard.records` builds on this module.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from emoguard.colour import background

WIDTH = 21
"""Characters of a bar."""

EXPLANATIONS = {
    "uncalibrated": "no calibration for exactly this model file, so these are raw projections "
    "without colours, ranks and alarms",
    "cancelled": "the answer was broken off; the scores cover the part that was generated",
    "incomplete": "tokens without a fresh reading, so nothing is averaged",
    "skipped": "this way of generating is not read",
    "error": "the reading broke, the answer did not",
}
"""Statuses other than `scored`."""


class Score(Protocol):
    """The fields of `emoguard.records.LabelScore` that a table shows."""

    @property
    def mean(self) -> float:
        """Mean z, or mean projection."""
        ...

    @property
    def peak(self) -> float | None:
        """Maximum of the rolling mean."""
        ...

    @property
    def rank(self) -> float | None:
        """Place among neutral responses."""
        ...

    @property
    def verdict(self) -> str | None:
        """Verdict of the validation."""
        ...


@dataclass(frozen=True)
class Row:
    """One label of a table, as text; `z` colours its mean, None for none."""

    label: str
    caveat: str
    """The verdict on a label that is not usable, in brackets behind its name."""
    mean: str
    peak: str
    rank: str
    place: float | None
    """The rank as a number in [0, 1]."""
    z: float | None
    is_last_emotion: bool = False
    """Whether contrasts begin below."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as plain text."""
        return self.label + self.caveat, self.mean, self.peak, self.rank, "".join(bar(self.place))


def is_calibrated(scores: Mapping[str, Score]) -> bool:
    """Return whether scores are in units of z."""
    return any(score.rank is not None for score in scores.values())


def columns(scores: Mapping[str, Score]) -> tuple[str, ...]:
    """Return the head of the table."""
    unit = "z" if is_calibrated(scores) else "projection"
    return "label", f"mean {unit}", "peak", "rank", "among neutral answers"


def rows(scores: Mapping[str, Score], axes: Sequence[str] = ()) -> list[Row]:
    """Return one row per label, highest mean first, the contrasts `axes` below the emotions."""
    calibrated = is_calibrated(scores)
    ordered = sorted(scores.items(), key=lambda item: (item[0] in axes, -item[1].mean))
    emotions = sum(label not in axes for label, _ in ordered)
    return [
        _row(label, score, calibrated=calibrated, is_last=number == emotions < len(ordered))
        for number, (label, score) in enumerate(ordered, 1)
    ]


def _row(label: str, score: Score, *, calibrated: bool, is_last: bool) -> Row:
    peak = score.peak
    return Row(
        label=printable(label),
        caveat=caveat(score.verdict),
        mean=signed(score.mean) if calibrated else f"{score.mean:+.3g}",
        peak="-" if peak is None else signed(peak) if calibrated else f"{peak:+.3g}",
        rank="-" if score.rank is None else f"{score.rank:.2f}",
        place=score.rank,
        z=score.mean if calibrated else None,
        is_last_emotion=is_last,
    )


def caveat(verdict: str | None) -> str:
    """Return the verdict to append to a label that validation did not find usable."""
    return "" if verdict in (None, "usable") else f" ({verdict})"


def bar(rank: float | None) -> tuple[str, str, str]:
    """Return `rank` in [0, 1] as a bar that grows from the middle of a track."""
    if rank is None:
        return "", "-", ""
    middle, end = WIDTH // 2, round(rank * (WIDTH - 1))
    low, high = sorted((middle, end))
    mark = "┿" if low == high else "━" * (high - low + 1)
    return "─" * low, mark, "─" * (WIDTH - 1 - high)


def signed(z: float | None) -> str:
    """Return z in four characters, for standing under or beside a word."""
    if z is None or not math.isfinite(z):
        return "   -"
    text = f"{max(-9.9, min(9.9, z)):+.1f}"
    return " 0.0" if text in ("+0.0", "-0.0") else text


def printable(text: str) -> str:
    """Return `text` with control characters replaced, so that it cannot rewrite the screen."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def reading_line(report: Any) -> str:
    """Return probe, backend, tokens and cost of a report in one line."""
    count, generated = report.tokens_scored, report.completion_tokens
    cost = f" at {1000 * report.overhead_seconds / count:.2f} ms each" if count else ""
    sinks = f", {report.attention_sinks} at an attention sink" if report.attention_sinks else ""
    tokens = f"{count} of {generated} tokens read{cost}{sinks}"
    probe = f"{printable(report.probe)}{' (provisional)' if report.provisional else ''}"
    return f"{probe} · {report.backend} · {tokens}"


def steering_line(receipt: Any) -> str:
    """Return a receipt in one line."""
    forms = {"add": "{} {:+g}", "cap": "{} ≤ q{:g}", "floor": "{} ≥ q{:g}"}
    parts = [
        form.format(printable(label), value)
        for verb, form in forms.items()
        for label, value in receipt.plan.get(verb, {}).items()
    ]
    parts += [f"{printable(label)} ablated" for label in receipt.plan.get("ablate", ())]
    layers = ", ".join(map(str, receipt.layers))
    line = f"steered: {', '.join(parts)} at layers {layers}; {receipt.applied} tokens moved"
    if receipt.dose_median is not None:
        line += f", by {receipt.dose_median:.1%} of their length (most {receipt.dose_max:.1%})"
    counts = {"clipped": receipt.clipped, "not steered": receipt.faulted}
    return line + "".join(f", {count} {what}" for what, count in counts.items() if count)


def status_line(report: Any) -> str:
    """Return the meaning of a status other than `scored`, "" for that one."""
    if report.status == "scored":
        return ""
    line = f"{report.status}: {EXPLANATIONS[report.status]}"
    return line + (f" ({printable(report.detail)})" if report.detail else "")


def below(report: Any) -> list[str]:
    """Return the lines below a report's table."""
    steered = "" if report.receipt is None else steering_line(report.receipt)
    return [line for line in (reading_line(report), steered, status_line(report)) if line]


def as_text(report: Any) -> str:
    """Return the table of a report and the lines below it, as plain text."""
    lines = list(_aligned(report.scores)) if report.scores else []
    return "\n".join([*lines, *below(report)])


def _aligned(scores: Mapping[str, Score]) -> Iterator[str]:
    """Yield the lines of a table: labels and bars to the left, numbers to the right."""
    whole = [columns(scores), *(row.cells for row in rows(scores))]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for cells in whole:
        first, *numbers, last = [
            cell.rjust(width) for cell, width in zip(cells, widths, strict=True)
        ]
        yield "  ".join((first.strip().ljust(widths[0]), *numbers, last.strip())).rstrip()


def as_html(report: Any, label: str | None = None) -> str:
    """Return the tokens of a report in the colour of `label`, its table and the lines below, HTML.

    Without `label` it is the one with the highest mean. Tokens without a text are left out.
    """
    parts = []
    if report.scores:
        labels = list(report.scores)
        label = label or max(labels, key=lambda each: report.scores[each].mean)
        parts += _tokens(report, label, labels.index(label))
        parts.append(_table(report.scores))
    parts += [f"<div><small>{html.escape(line)}</small></div>" for line in below(report)]
    return "".join(parts)


def _tokens(report: Any, label: str, column: int) -> list[str]:
    coloured = is_calibrated(report.scores)
    spans = [
        _span(token.text, token.z[column] if coloured and not token.attention_sink else None)
        for token in report.tokens
        if token.text
    ]
    if not spans:
        return []
    legend = f"<div><small>in the colour of {html.escape(printable(label))}</small></div>"
    return [f'<div style="white-space:pre-wrap">{"".join(spans)}</div>', legend if coloured else ""]


def _span(text: str, z: float | None) -> str:
    words = html.escape(printable(text))
    title = "" if z is None else f' title="{signed(z).strip()}"'
    return f"<span{_style(z)}{title}>{words}</span>"


def _table(scores: Mapping[str, Score]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns(scores))
    lines = [
        f"<tr><td>{html.escape(row.label + row.caveat)}</td><td{_style(row.z)}>{row.mean}</td>"
        f"<td>{row.peak}</td><td>{row.rank}</td><td><code>{''.join(bar(row.place))}</code></td></tr>"
        for row in rows(scores)
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _style(z: float | None) -> str:
    colour = background(z)
    if colour is None:
        return ""
    return f' style="color:#fff;background:rgb({",".join(map(str, colour))})"'
