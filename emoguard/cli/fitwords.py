"""Prints the announcement and the summary of `emoguard fit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from emoguard.cli.bars import duration
from emoguard.cli.fitjob import Job
from emoguard.cli.fitpage import page_of
from emoguard.cli.screen import Screen
from emoguard.fit.forecast import Part, seconds
from emoguard.guard import Guard
from emoguard.probe.probe import Probe
from emoguard.reporttable import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def announce(job: Job, parts: Sequence[Part], quick: Sequence[Part] | None) -> None:
    """Print the parts of the fit with their durations, and the price of a quick fit.

    `quick` are the parts of a quick fit, None if this is one or follows one.
    """
    identity, screen = job.reader.door.identity, Screen(stderr=True)
    kind = "A provisional probe" if job.scope.is_quick else "A probe"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{kind} for {identity.name} ({identity.architecture}, {identity.layers} layers of "
        f"{identity.hidden}, {identity.quantisation}): {Path(job.out).name} and "
        f"{page_of(job.out).name}",
        title_justify="left",
    )
    for column in ("to do", "how much", "takes about"):
        table.add_column(column)
    for part in parts:
        table.add_row(part.task, part.amount, duration(part.seconds[0]))
    screen.print(table)
    clock, cpu = seconds(parts)
    whole = f"Altogether about {duration(clock)} ({duration(cpu)} of CPU)."
    resumed = "the same command goes on where it was; only fitting and judging begin anew."
    lines = [f"{whole} Stop it when you like: {resumed}"]
    if quick is not None:
        lines.append(_given_up(job, duration(seconds(quick)[0])))
    if not job.speaker.has_template:
        lines.append(
            f"{job.speaker.door.identity.name} has no chat template, as base models have none: it "
            "will continue prompts, and scores are on the scale of that."
        )
    for line in lines:
        screen.print(line, soft_wrap=True)


def _given_up(job: Job, takes: str) -> str:
    small, large = job.scope.quick(), job.scope
    return (
        f"With --quick about {takes}: {small.texts} of {large.texts} texts per label and corpus, "
        f"{small.responses} of {large.responses} answers. That gives up certified alarms, exact "
        "ranks and scales, and some of the directions' precision; it can be finished later."
    )


def finished(
    job: Job, guard: Guard, page: Path, took: NDArray[np.float64], expected: NDArray[np.float64]
) -> None:
    """Print the new probe's file and page, the verdict on each label, and the cautions."""
    probe, identity = guard.probe, job.speaker.door.identity
    screen = Screen()
    calibration = guard.calibration(identity)
    assert calibration is not None
    if probe.verdicts:
        screen.print(_verdicts(probe))
    screen.print(
        f"Wrote {job.out}: {len(probe.labels)} labels at layers "
        f"{', '.join(map(str, probe.layers))}, calibrated on {calibration.responses} responses, in "
        f"{duration(took[0])} ({duration(took[1])} of CPU; expected {duration(expected[0])}, "
        f"{duration(expected[1])}).",
        soft_wrap=True,
    )
    screen.print(f"Look at it in a browser: {page}", soft_wrap=True)
    for caution in (*probe.cautions, *calibration.cautions):
        line = printable(f"Caution: {caution}.")
        Screen(stderr=True).print(line, style="yellow", soft_wrap=True)


def _verdicts(probe: Probe) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="First judgement: AUROC on a corpus the directions were not fitted on",
        title_justify="left",
    )
    table.add_column("label")
    table.add_column("verdict")
    for column in ("model", "95 %", "text alone"):
        table.add_column(column, justify="right")
    for label, evidence in probe.card["recipe"].items():
        value, low, high = evidence["transfer"] or (None, None, None)
        interval = "-" if low is None or high is None else f"{low:.2f}-{high:.2f}"
        table.add_row(
            printable(label),
            probe.verdicts.get(label, "-"),
            "-" if value is None else f"{value:.2f}",
            interval,
            f"{evidence['words']:.2f}",
        )
    return table
