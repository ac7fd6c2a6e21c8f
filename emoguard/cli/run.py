"""`emoguard run`: prints one watched answer."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import click
from rich.text import Text

import emoguard
from emoguard.cli.models import MODEL, RUNTIME, THREADS
from emoguard.cli.paint import legend, tint
from emoguard.cli.plans import plan_options, read_plan
from emoguard.cli.probes import calibrating, check_calibrated, coloured_label, guard_for
from emoguard.cli.screen import Screen
from emoguard.cli.stream import Scores, Show, respond
from emoguard.cli.summary import label_table, status_line
from emoguard.cli.typed import piped, typed
from emoguard.guard import Guard
from emoguard.records import Report
from emoguard.reporttable import printable
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Prompt, Speaker


@click.command(short_help="Watch a model answer a prompt.")
@click.argument("prompt", required=False, callback=typed)
@MODEL
@click.option("--probe", help="A probe file; default: the shipped one that fits.")
@RUNTIME
@click.option("--label", help="The label that colours the text; default: valence.")
@click.option("--max-tokens", type=click.IntRange(1), default=200, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@THREADS
@click.option("--system", default="", callback=typed, help="A system prompt.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without chat template.")
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: text and report.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve /metrics on this loopback port (0: any), also after the answer, until Ctrl-C.",
)
def run(
    *,
    prompt: str | None,
    path: str,
    probe: str | None,
    runtime: str,
    label: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    threads: int | None,
    system: str,
    raw: bool,
    steer: tuple[str, ...],
    cap: tuple[str, ...],
    floor: tuple[str, ...],
    ablate: tuple[str, ...],
    as_json: bool,
    metrics_port: int | None,
) -> None:
    """Watch a model answer PROMPT: every token in the colour of its score.

    PROMPT comes from standard input when it is - or left out.
    """
    request = Prompt(_text(prompt), system, max_tokens, temperature, seed, raw)
    plan = read_plan(steer, cap, floor, ablate)
    console, notes = Screen(), Screen(stderr=True)
    with contextlib.ExitStack() as stack:
        with notes.status(f"opening {Path(path).name}"):
            speaker = open_speaker(path, runtime, threads)
            guard = guard_for(speaker, probe, path)
            column = coloured_label(guard, label)
            if metrics_port is not None:
                guard, url = _with_metrics(stack, guard, speaker, metrics_port)
            watch = stack.enter_context(emoguard.attach(speaker.model, guard, **speaker.options))
            if plan is not None:
                check_calibrated(guard, probe, watch.identity, path, runtime)
        show = _nothing if as_json else _painter(console, guard, speaker, column)
        text, report = respond(speaker, watch, request, show, plan)
        _print(console, guard, text, report, as_json=as_json)
        if report.status == "uncalibrated":
            command = calibrating(guard.probe, probe, watch.identity, path, runtime)
            notes.print(f"To calibrate it:\n{command}", markup=False, soft_wrap=True)
        if metrics_port is not None:
            guard.flush()  # the first scrape shows this response
            interrupted = _interrupted()
            notes.print(f"metrics at {url} until Ctrl-C")
            interrupted.wait()


def _text(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("give a PROMPT, or pipe one in")
    text = piped(sys.stdin) if prompt in (None, "-") else prompt
    if not text or not text.strip():
        raise click.UsageError("the prompt is empty: there is nothing to answer")
    return text.strip()


def _painter(console: Screen, guard: Guard, speaker: Speaker, column: int) -> Show:
    """Print the legend; return a function that prints each token in the colour of its score."""
    calibrated = guard.calibration(speaker.door.identity) is not None
    if calibrated and console.is_terminal and not console.no_color:
        console.print(legend(guard.labels[column]), "\n")

    def show(piece: str, scores: Scores) -> None:
        style = tint(scores[column]) if calibrated and scores else ""
        console.print(Text(printable(piece), style), end="", soft_wrap=True)

    return show


def _nothing(piece: str, scores: Scores) -> None:
    """Ignore a token: everything is in the JSON object."""


def _print(console: Screen, guard: Guard, text: str, report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"text": text, "report": report.as_dict()}))
        return
    console.print("\n")
    if report.notice is not None:
        console.print(Text(report.notice.text, "italic"), "\n")
    if report.scores:
        console.print(label_table(report, guard.probe.axes))
    console.print(status_line(report))


def _with_metrics(
    stack: contextlib.ExitStack, guard: Guard, speaker: Speaker, port: int
) -> tuple[Guard, str]:
    """Return the guard with a Prometheus exporter, and the address it is served at."""
    (point,) = entry_points(group="emoguard.exporters", name="prometheus")
    name = speaker.door.identity.name
    exporter = point.load()(emotions=guard.labels, model=name, probe=guard.probe.name)
    server = importlib.import_module(point.module).serve(exporter, port)
    stack.callback(server.close)
    watched = Guard(guard.probe, guard.calibrations, guard.policy, [exporter])
    stack.callback(watched.close)
    return watched, server.url


def _interrupted() -> threading.Event:
    """Return an event that Ctrl-C and a service manager's SIGTERM set.

    Both are set explicitly: a background process of a script inherits Ctrl-C ignored.
    """
    event = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: event.set())
    return event
