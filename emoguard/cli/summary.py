"""Prints the table of a response's labels and the lines below it, in colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from emoguard import reporttable
from emoguard.cli.paint import place, tint
from emoguard.records import Report


def label_table(report: Report, axes: Sequence[str] = ()) -> Table:
    """Return one row per label, highest mean first, contrasts below the emotions."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    label, *numbers, bar = reporttable.columns(report.scores)
    table.add_column(label)
    for column in numbers:
        table.add_column(column, justify="right")
    table.add_column(bar, no_wrap=True)
    for row in reporttable.rows(report.scores, axes):
        table.add_row(
            Text(row.label).append(row.caveat, "dim"),
            Text(f" {row.mean} ", tint(row.z)),
            row.peak,
            row.rank,
            place(row.place),
            end_section=row.is_last_emotion,
        )
    return table


def status_line(report: Report) -> Text:
    """Return probe, backend, tokens and cost in one line, and below it steering and status."""
    line = Text(reporttable.reading_line(report), "dim")
    if report.receipt is not None:
        line.append(f"\n{reporttable.steering_line(report.receipt)}")
    if status := reporttable.status_line(report):
        line.append(f"\n{status}", "bold")
    return line
