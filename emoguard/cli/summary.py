"""What is printed below a response: the labels and how they were read."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from emoguard.cli.paint import place, signed, tint
from emoguard.cli.screen import printable
from emoguard.records import LabelScore, Receipt, Report


def label_table(report: Report, axes: Sequence[str] = ()) -> Table:
    """Return one row per label, highest mean first, contrasts below the emotions."""
    calibrated = any(score.rank is not None for score in report.scores.values())
    unit = "z" if calibrated else "projection"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("label")
    table.add_column(f"mean {unit}", justify="right")
    table.add_column("peak", justify="right")
    table.add_column("rank", justify="right")
    table.add_column("among neutral answers", no_wrap=True)
    ordered = sorted(report.scores.items(), key=lambda item: (item[0] in axes, -item[1].mean))
    for number, (label, score) in enumerate(ordered):
        last_emotion = number + 1 < len(ordered) and ordered[number + 1][0] in axes
        table.add_row(
            *_cells(label, score, coloured=calibrated),
            end_section=last_emotion and label not in axes,
        )
    return table


def status_line(report: Report) -> Text:
    """Return probe, backend, tokens and cost in one line, and what went wrong, if anything did."""
    read, made = report.tokens_scored, report.completion_tokens
    cost = f" at {1000 * report.overhead_seconds / read:.2f} ms each" if read else ""
    sinks = f", {report.attention_sinks} at an attention sink" if report.attention_sinks else ""
    reading = f"{read} of {made} tokens read{cost}{sinks}"
    parts = (printable(report.probe), report.backend, reading)
    line = Text(" · ".join(parts), "dim")
    if report.receipt is not None:
        line.append(f"\n{_steered(report.receipt)}")
    if report.status != "scored":
        line.append(f"\n{_explain(report)}", "bold")
    return line


def _cells(label: str, score: LabelScore, *, coloured: bool) -> tuple[Text | str, ...]:
    mean = signed(score.mean) if coloured else f"{score.mean:+.3g}"
    peak = score.peak
    return (
        Text(printable(label)).append(worth(score.verdict), "dim"),
        Text(f" {mean} ", tint(score.mean) if coloured else ""),
        "-" if peak is None else signed(peak) if coloured else f"{peak:+.3g}",
        "-" if score.rank is None else f"{score.rank:.2f}",
        place(score.rank),
    )


def worth(verdict: str | None) -> str:
    """Return what to write behind a label that validation did not find usable."""
    return "" if verdict in (None, "usable") else f" ({verdict})"


def _steered(receipt: Receipt) -> str:
    """Return what was steered, in one line."""
    told = {"add": "{} {:+g}", "cap": "{} ≤ q{:g}", "floor": "{} ≥ q{:g}"}
    parts = [
        form.format(printable(label), value)
        for verb, form in told.items()
        for label, value in receipt.plan.get(verb, {}).items()
    ]
    parts += [f"{printable(label)} ablated" for label in receipt.plan.get("ablate", ())]
    layers = ", ".join(map(str, receipt.layers))
    line = f"steered: {', '.join(parts)} at layers {layers}; {receipt.applied} tokens moved"
    if receipt.dose_median is not None:
        line += f", by {receipt.dose_median:.1%} of their length (most {receipt.dose_max:.1%})"
    counts = {"clipped": receipt.clipped, "not steered": receipt.faulted}
    return line + "".join(f", {count} {what}" for what, count in counts.items() if count)


def _explain(report: Report) -> str:
    told = {
        "uncalibrated": "uncalibrated: no calibration for exactly this model file, so these are "
        "raw projections without colours, ranks and alarms",
        "cancelled": "cancelled: the answer was broken off; the scores cover what was said",
        "incomplete": "incomplete: tokens without a fresh reading, so nothing is averaged",
        "skipped": "skipped: this way of generating is not read",
        "error": "error: the reading broke, the answer did not",
    }
    return told[report.status] + (f" ({report.detail})" if report.detail else "")
