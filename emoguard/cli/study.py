"""`emoguard study`: measures the effects of prompt, sampling and vector, and side effects."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

import emoguard
from emoguard import jsontext, keptfile, regularfile
from emoguard.cli.bars import Bars
from emoguard.cli.hub import local
from emoguard.cli.models import FORMATS, RUNTIME, THREADS
from emoguard.cli.probes import check_calibrated, guard_for
from emoguard.cli.screen import Screen, say
from emoguard.errors import EmoGuardError
from emoguard.fit.requirements import VALENCE
from emoguard.runtime.openers import AUTO, open_speaker
from emoguard.study.binding import bound_to
from emoguard.study.labelled import LABELS
from emoguard.study.personas import system_prompt
from emoguard.study.pictures import draw
from emoguard.study.plan import Cost, block_of, pieces
from emoguard.study.protocol import Protocol
from emoguard.study.report import markdown
from emoguard.study.runner import OutOfTimeError, Runner
from emoguard.study.speech import open_speech
from emoguard.study.statistics import needed_items
from emoguard.study.store import Store
from emoguard.study.study import MATCHED, Study, data_folder, guard_of, judges
from emoguard.study.tasks import Task, prompt_levels
from emoguard.validate.plots import find_pyplot

RESULTS, REPORT = "results.json", "report.md"

LARGEST = 64 * 2**20
"""Bytes of a file of results."""

DISCORDANCE = 0.1
"""Assumed share of pairs that differ, for the number of items that a margin needs."""


@click.command(short_help="Run a study of prompt, sampling and vector.")
@click.argument("protocol_path", metavar="PROTOCOL", required=False)
@click.option(
    "--model",
    "path",
    callback=local,
    help=f"{FORMATS[:1].upper()}{FORMATS[1:]}, or OWNER/NAME on the Hugging Face hub.",
)
@RUNTIME
@click.option("--probe", help="A probe file; default: the shipped one that fits.")
@THREADS
@click.option("--data", help="Folder with published items, and the text to train classifiers on.")
@click.option("--embeddings", help="Folder of a sentence-embedding model, for one more judge.")
@click.option("--out", help="Folder of the study: its records, results, report and pictures.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan and its cost, and stop.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Stop after this many CPU minutes; the same command continues later.",
)
@click.option("--from", "results_path", help="Draw report and pictures again from results.json.")
def study(
    *,
    protocol_path: str | None,
    path: str | None,
    runtime: str,
    probe: str | None,
    threads: int | None,
    data: str | None,
    embeddings: str | None,
    out: str | None,
    only_plan: bool,
    minutes: float | None,
    results_path: str | None,
) -> None:
    """Run the study of PROTOCOL, a YAML file or a shipped one (core, control, quick).

    The plan and its cost are printed first, from speeds measured here. Records are saved in --out:
    after an interruption, the same command continues.
    """
    find_pyplot()
    if results_path is not None:
        _draw_again(results_path, out)
        return
    if protocol_path is None or path is None or out is None:
        raise click.UsageError("give PROTOCOL, --model and --out, or --from results.json")
    protocol = Protocol.load(protocol_path)
    for level in (
        *prompt_levels(protocol),
        *(protocol.labels if protocol.explored.prompts else ()),
    ):
        system_prompt(level)  # a label without a persona is refused here
    folder = data_folder(protocol, data)
    chosen = judges(protocol, folder, embeddings)
    speaker = open_speaker(path, runtime, threads)
    guard = guard_for(speaker, probe, path)
    door = speaker.door
    check_calibrated(guard, probe, door.identity, path, runtime)
    wide = guard_of(protocol, guard, door)
    engine = door.backend.partition(":")[0]
    bound = bound_to(protocol, guard, door.identity, engine, data=folder, embeddings=embeddings)
    store = Store(out, bound)
    about: dict[str, Any] = {
        "emoguard": emoguard.__version__,
        "model": door.identity.name,
        "quantisation": door.identity.quantisation,
        "identity": door.identity.digest,
        "runtime": engine,
        "probe": guard.probe.name,
        "command": _command(protocol_path, path, probe, runtime, data, embeddings),
    }
    with closing(store), open_speech(speaker, wide) as speech:
        work = Study(
            protocol, speech, store, chosen, folder, guard.probe.verdicts,
            controls=VALENCE in guard.probe.labels,
        )  # fmt: skip
        costs = _planned(work, about)
        about["estimated seconds"] = sum(each.seconds for each in costs)
        if only_plan:
            return
        _run(work, protocol, minutes, costs)
    _write(work.results(about), Path(out))


def _planned(work: Study, about: dict[str, Any]) -> list[Cost]:
    """Print the plan and its cost, measured once and then kept; return the cost of each block."""
    console, protocol = Screen(), work.protocol
    if "plan" not in work.store:
        with Bars() as progress:
            bar = progress.add_task("measuring speeds", total=None)
            costs = work.cost(
                lambda block: progress.update(bar, description=f"measuring speeds: {block}")
            )
        work.store.add({"task": "plan", "costs": [vars(each) for each in costs]})
    costs = [Cost(**each) for each in work.store.records["plan"]["costs"]]
    total = sum(each.seconds for each in costs)
    table = Table(title=f"{protocol.name}: {about['model']}", title_justify="left", box=box.SIMPLE)
    for column in ("part", "items", "cells", "tokens", "CPU minutes"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for each in costs:
        table.add_row(
            each.block, f"{each.tasks:,}", f"{each.cells:,}", str(each.tokens or "choice"),
            f"{each.seconds / 60:.1f}",
        )  # fmt: skip
    console.print(table)
    several = pieces(total, 60 * protocol.piece_minutes)
    console.print(
        f"About {total / 3600:.2f} CPU hours in {several} piece{'s' if several > 1 else ''}; "
        f"protocol {protocol.digest[:16]}. Contrasts named before the run:"
    )
    for contrast in protocol.contrasts:
        console.print(f"  {contrast.name}")
    for line in _untestable(work, costs):
        console.print(f"  note: {line}")
    return costs


def _untestable(work: Study, costs: Sequence[Cost]) -> list[str]:
    """Return a line for what is not asked, labels without hand labels, and too few items."""
    counts = {each.block: each.tasks for each in costs}
    unlabelled = dict.fromkeys(
        each.label
        for each in work.protocol.contrasts
        if each.outcome == "expression" and each.label not in LABELS
    )
    lines = [f"{label}: no hand labels, its expression stays exploratory" for label in unlabelled]
    published = [outcome for outcome, count in work.protocol.safety.published.items() if count]
    if work.data is None and published:
        lines.append(f"{', '.join(published)}: not asked, their items are in the folder for --data")
    for outcome in ("premise", "sycophancy"):
        counts[outcome] = counts.get(outcome, 0) // 2  # each item is two questions
    for contrast in work.protocol.contrasts:
        if contrast.test != "no_harm":
            continue
        both = contrast.outcome == "capability"
        needed = needed_items(contrast.margin, DISCORDANCE, both=both)
        if counts.get(contrast.outcome, 0) < needed:
            lines.append(
                f"{contrast.name}: {counts.get(contrast.outcome, 0)} items, {needed} needed where "
                f"{DISCORDANCE:.0%} differ: it may stay untested"
            )
    return lines


def _run(work: Study, protocol: Protocol, minutes: float | None, costs: Sequence[Cost]) -> None:
    """Do the remaining tasks, as many as the minutes allow.

    Progress is counted in planned CPU seconds: an answer in all cells takes a hundred choices.
    """
    runner = Runner(
        work.speech,
        work.store,
        seed=protocol.seed,
        piece_seconds=60 * protocol.piece_minutes,
        seconds=None if minutes is None else 60 * minutes,
    )
    planned = {each.block: each.seconds / each.tasks for each in costs}
    each_measured = sum(each.seconds / each.cells for each in costs if each.block == MATCHED)
    known = set(work.store.records)
    with Bars() as progress:
        bar = progress.add_task("CPU seconds", total=sum(each.seconds for each in costs))

        def advance(key: str, block: str, seconds: float) -> None:
            if key in known:  # counted, but no measure of how fast it is now
                counted = progress.tasks[bar].completed + seconds
                progress.reset(bar, completed=counted)  # type: ignore[arg-type]  # rich adds floats
            else:
                progress.update(bar, description=f"CPU seconds, {block}", advance=seconds)

        def done(task: Task) -> None:
            advance(task.key, block_of(task), planned[block_of(task)])

        def measured(count: int) -> None:
            advance(MATCHED, MATCHED, count * each_measured)

        try:
            work.run(runner, done, measured)
        except OutOfTimeError:
            say(
                f"{len(work.store.records)} records so far: the same command goes on from here",
                err=True,
            )
            if "frozen" not in work.store:
                sys.exit(0)


def _write(results: dict[str, Any], folder: Path) -> None:
    """Write results, pictures and report into a folder, and print the verdict."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        keptfile.replace(folder / RESULTS, text)
        pictures = draw(results, folder)
        keptfile.replace(folder / REPORT, markdown(results, pictures))
    except OSError as error:
        raise EmoGuardError(f"{folder} cannot be written: {error.strerror}") from error
    say(results["verdict"])
    say(f"Wrote {folder / REPORT}, {RESULTS} and {len(pictures)} pictures.")


def _draw_again(path: str, out: str | None) -> None:
    results = _read_results(path)
    try:
        markdown(results)  # before anything is written
        _write(results, Path(out or Path(path).parent))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EmoGuardError(
            f"--from {path}: wanted the {RESULTS} of a study, got one in another form "
            f"({type(error).__name__}: {error!s:.100}): run the study's command again, which asks "
            "nothing twice"
        ) from error


def _read_results(path: str) -> dict[str, Any]:
    try:
        results = jsontext.parse(regularfile.read(path, LARGEST), largest=LARGEST)
    except (OSError, ValueError, EmoGuardError) as error:
        raise EmoGuardError(f"--from {path} cannot be read: {error!s:.200}") from error
    if not isinstance(results, dict) or results.get("emoguard") != "study":
        raise EmoGuardError(f"--from {path}: wanted the {RESULTS} of a study")
    return results


def _command(
    protocol: str,
    model: str,
    probe: str | None,
    runtime: str,
    data: str | None,
    embeddings: str | None,
) -> str:
    """Return the command that repeats a study, without paths of this machine."""
    words = ["emoguard", "study", Path(protocol).name, "--model", Path(model).name, "--out", "OUT"]
    words += ["--data", "DATA"] if data is not None else []
    words += ["--embeddings", "EMBEDDINGS"] if embeddings is not None else []
    words += ["--probe", Path(probe).name] if probe else []
    words += ["--runtime", runtime] if runtime != AUTO else []
    return shlex.join(words)
