"""`emoguard doctor`: diagnoses runtimes, probes and models on this machine."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from emoguard.advice import fit_command
from emoguard.cli.bars import Bars
from emoguard.cli.hub import local
from emoguard.cli.probes import calibrating, open_probe
from emoguard.cli.screen import Screen, say
from emoguard.errors import EmoGuardError
from emoguard.extras import install_command
from emoguard.fit.calibrating import own_prompts
from emoguard.fit.staleness import ANSWERS, comparable, movement
from emoguard.guard import Guard
from emoguard.probe.calibration import Calibration
from emoguard.probe.residuals import Residuals
from emoguard.probe.shipped import shipped_files
from emoguard.probe.witness import WITNESS_TEXT
from emoguard.runtime.attach import shipped
from emoguard.runtime.openers import open_speaker, plugins, recognise
from emoguard.runtime.speaker import Speaker

RAW = (
    "no calibration for exactly this file: scores are raw projections, without ranks, alarms and "
    "steering"
)


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    `mark` is ok, absent (not needed), to do (works, but not as well as it could) or broken;
    `command` mends it.
    """

    part: str
    mark: str
    text: str
    command: str = ""


@click.command(short_help="Check runtimes, probes and models here.")
@click.option(
    "--model",
    "path",
    callback=local,
    help="A model to try: a path, or OWNER/NAME on the Hugging Face hub.",
)
@click.option(
    "--probe",
    help="A probe to try on --model, a file or a shipped one; default: the one that fits.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
@click.pass_context
def doctor(ctx: click.Context, path: str | None, probe: str | None, *, as_json: bool) -> None:
    """Check the runtimes and probes on this machine; exit 1 if something is broken.

    With --model, also check how the model is read, which probe fits it, and whether the probe is
    calibrated for exactly this file. A file that may crash its runtime is first tried in a child
    process.
    """
    if probe is not None and path is None:
        raise click.UsageError("--probe is tried on a model: give --model, too")
    with Bars() as progress:
        progress.add_task("looking", total=None)
        findings = [*_runtimes(), *_probes(), *(_model(path, probe) if path else ())]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.mark == "broken" for finding in findings):
        ctx.exit(1)


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("part", "state", "found"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "absent": "dim", "to do": "yellow", "broken": "bold red"}
    for finding in findings:
        table.add_row(finding.part, Text(finding.mark, colours[finding.mark]), finding.text)
    Screen().print(table)
    for finding in findings:
        if finding.command:  # not in the table, which would break the line
            say(f"{finding.part}: {finding.command}")


def _runtimes() -> Iterator[Finding]:
    points = list(plugins().values())
    findings = [finding for point in points for finding in _runtime(point)]
    yield from findings
    if not any(finding.mark == "ok" for finding in findings):
        names = " or ".join(point.name for point in points)
        yield Finding("runtime", "broken", f"none works: install {names}")


def _runtime(point: EntryPoint) -> Iterator[Finding]:
    distributions = packages_distributions().get(point.name)
    if not distributions:
        yield Finding(point.name, "absent", "not installed", install_command(point.name))
        return
    installed = version(distributions[0])
    try:
        importlib.import_module(point.name)
        plugin = importlib.import_module(point.value)
    except Exception as error:  # noqa: BLE001  (a broken installation may raise anything)
        yield Finding(point.name, "broken", f"{installed}: {type(error).__name__}: {error}")
        return
    yield Finding(point.name, "ok", f"{installed}, read by {point.value}")
    yield from _read_paths(point.name, _own_doctor(plugin))


def _own_doctor(plugin: ModuleType) -> Any:
    """Return a plug-in's module `doctor`, or None if it has none."""
    name = f"{plugin.__name__}.doctor"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _read_paths(name: str, own: Any) -> Iterator[Finding]:
    if own is None:
        return
    if hasattr(own, "findings"):
        yield from (Finding(*each) for each in own.findings())
        return
    facts = own.runtime()
    callback = str(facts["callback"])
    yield Finding(f"{name} callback", "ok" if callback == "works" else "broken", callback)
    native = ", ".join(facts["native"]) or f"no architecture is checked with {facts['version']}"
    yield Finding(f"{name} native", "ok" if facts["native"] else "absent", native)


def _probes() -> Iterator[Finding]:
    for name in shipped_files():
        try:
            probe, calibrations, _ = open_probe(name)
        except EmoGuardError as error:
            yield Finding(f"probe {name}", "broken", str(error))
            continue
        files = ", ".join(c.identity.quantisation for c in calibrations) or "nothing"
        labels = len(probe.labels)
        yield Finding(f"probe {name}", "ok", f"{labels} labels, calibrated for {files}")
    if not shipped_files():
        yield Finding("probes", "absent", "none is shipped here", fit_command())


def _model(path: str, probe: str | None) -> Iterator[Finding]:
    """Diagnose a model: its read paths, the probe that fits it, the calibration of that probe."""
    try:
        own = _own_doctor(importlib.import_module(plugins()[recognise(path)].value))
        yield from _opened(path, probe) if own is None else _examined(own, path, probe)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        yield Finding(Path(path).name, "broken", f"needs {library}", install_command(library))
    except EmoGuardError as error:
        yield Finding(Path(path).name, "broken", str(error))


def _examined(own: Any, path: str, probe: str | None) -> Iterator[Finding]:
    """Examine a model with its plug-in's own doctor."""
    facts = own.examine(path)
    name = Path(path).name
    if facts["error"]:
        yield Finding(name, "broken", str(facts["error"]))
        return
    size = f"{facts['layers']} layers of {facts['hidden']}"
    yield Finding(name, "ok", f"{facts['architecture']}, {size}, {facts['quantisation']}")
    native, callback = str(facts["native"]), str(facts["callback"])
    yield Finding("native read", "ok" if native == "allowed" else "absent", native)
    # One path is enough: only a file that neither can read is beyond help.
    spare = "absent" if native == "allowed" else "broken"
    yield Finding("callback read", "ok" if callback == "works" else spare, callback)
    if callback == "works" or native == "allowed":
        yield from _probe(own.open_door(path, facts), partial(open_speaker, path), path, probe)


def _opened(path: str, probe: str | None) -> Iterator[Finding]:
    """Open a model and read it."""
    speaker = open_speaker(path)
    door = speaker.door
    identity, name = door.identity, Path(path).resolve().name
    size = f"{identity.layers} layers of {identity.hidden}"
    yield Finding(name, "ok", f"{identity.architecture}, {size}, {identity.quantisation}")
    rows = door.residuals(door.tokenize(WITNESS_TEXT), range(identity.layers - 1))
    if np.isfinite(rows).all():
        yield Finding("read", "ok", "works at every layer")
        yield from _probe(door, lambda: speaker, path, probe)
    else:
        yield Finding("read", "broken", "NaN or infinity on a plain sentence: use another dtype")


def _probe(
    door: Residuals, speaker: Callable[[], Speaker], path: str, probe: str | None
) -> Iterator[Finding]:
    """Diagnose the probe for the model behind `door`, and its calibration.

    `speaker` is called only if the model must answer.
    """
    try:
        guard = _fitting(door, probe)
    except EmoGuardError as error:
        if probe is None:
            yield Finding("probe", "to do", "no shipped one fits this model", fit_command(path))
        else:
            yield Finding("probe", "broken", str(error))
        return
    yield Finding("probe", "ok", f"{guard.probe.name} fits")
    yield from (Finding("probe", "to do", caution) for caution in guard.probe.cautions)
    calibration = guard.calibration(door.identity)
    if calibration is not None:
        yield Finding("calibration", "ok", f"made on {calibration.responses} responses")
        yield from (Finding("calibration", "to do", each) for each in calibration.cautions)
        return
    others = comparable(guard.calibrations, own_prompts())
    if probe is not None and others:
        yield _aged(guard, others, probe, speaker(), path)
        return
    command = calibrating(guard.probe, probe, door.identity, path)
    unknown = ""
    if guard.calibrations and not others:
        unknown = (
            "; whether the model was changed cannot be said: other files were calibrated on other "
            "prompts or a system prompt"
        )
    yield Finding("calibration", "to do", f"uncalibrated: {RAW}{unknown}", command)


def _aged(
    guard: Guard, others: Sequence[Calibration], probe: str, speaker: Speaker, path: str
) -> Finding:
    """Distinguish another file of the same weights from a model that was trained further.

    `others` are calibrations of other files, on the package's prompts.
    """
    identity = speaker.door.identity
    moved = movement(speaker, guard.probe, others, own_prompts())
    seen = (
        f"(on {ANSWERS} of its answers the farthest label lies {moved.largest:.1f} standard errors "
        f"from where another file has it; witness {moved.witness:.3f})"
    )
    if not moved.moved:
        text = f"uncalibrated: {RAW}; its scores did not move {seen}"
        command = calibrating(guard.probe, probe, identity, path)
        return Finding("calibration", "to do", text, command)
    labels = ", ".join(moved.moved)
    return Finding(
        "calibration",
        "to do",
        f"stale: the model was changed, and neutral scores moved for {labels} {seen}: realign the "
        "calibration, which refuses if directions do not hold; else fit anew",
        calibrating(guard.probe, probe, identity, path, realign=True),
    )


def _fitting(door: Residuals, probe: str | None) -> Guard:
    """Return a guard with the named probe, else with the shipped one that fits.

    Raises:
        EmoGuardError: there is no such probe, or it does not fit.

    """
    if probe is None:
        return shipped(door)
    opened, calibrations, _ = open_probe(probe)
    opened.check_fits(door.identity)
    opened.witness.check(door, opened.layers)
    return Guard(opened, calibrations)
