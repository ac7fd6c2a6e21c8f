"""`emoguard validate`: judges whether a probe reads more than the text alone; writes its card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from emoguard import keptfile
from emoguard.cli.bars import Bars, follow
from emoguard.cli.models import MODEL, MOST, RESPONDER, RUNTIME, THREADS, TOKENS
from emoguard.cli.paths import check_out
from emoguard.cli.probes import calibrating, open_probe
from emoguard.cli.reading import Reader, readable, stories_of, unread
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.extras import check_installed
from emoguard.fit import corpora
from emoguard.fit.calibrating import check_fits
from emoguard.fit.corpora import Label, Text
from emoguard.fit.extraction import SKIP
from emoguard.fit.leaks import leaks
from emoguard.fit.requirements import VALENCE
from emoguard.probe import artifact
from emoguard.probe.probe import Probe
from emoguard.probe.residuals import Residuals
from emoguard.reporttable import printable
from emoguard.runtime.openers import AUTO, open_speaker
from emoguard.validate import card, carddata, plots
from emoguard.validate.carddata import Blocks
from emoguard.validate.human import families, family_task, read_human
from emoguard.validate.judged import Task
from emoguard.validate.responding import Hearing, blocks, calibrated
from emoguard.validate.validation import check
from emoguard.validate.validation import validate as measure


@click.command(short_help="Judge each label of a probe.")
@MODEL
@RUNTIME
@click.option("--probe", help="A probe file to judge; without it only the recipe is judged.")
@click.option(
    "--corpus",
    "corpus_paths",
    multiple=True,
    help="JSON lines with emotion, topic, text; repeat: transfer needs two corpora at least. "
    "Default: the package's own two.",
)
@click.option(
    "--neutral",
    "neutral_paths",
    multiple=True,
    help="JSON lines with text; default: the package's own.",
)
@click.option("--human", "human_path", help="Text by people: .tsv or JSON lines with labels.")
@click.option("--families", "families_path", help="Families of emotions for it (JSON).")
@click.option(
    "--human-most",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    help="Texts per family.",
)
@click.option(
    "--labels",
    "labels_path",
    help="Labels and their words (JSON), or names between commas; default: the probe's.",
)
@click.option("--also", multiple=True, help="Another file of the same weights, to compare with.")
@click.option("--card", "folder", required=True, help="Folder for the card, JSON and pictures.")
@click.option("--out", help="Write the probe with its verdicts here (.safetensors).")
@click.option("--residuals", help="Folder of stored residuals; default: CARD/residuals.")
@MOST
@click.option(
    "--skip",
    type=click.IntRange(0),
    help=f"Leading tokens to leave out; default: the probe's, {SKIP}.",
)
@click.option("--on-policy/--no-on-policy", default=True, help="Let the model respond.")
@RESPONDER
@click.option(
    "--responses",
    type=click.IntRange(20),
    default=150,
    show_default=True,
    help="Held-out neutral prompts to respond to.",
)
@TOKENS
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="TAG=FILE",
    help="Neutral prompts of a further language, one per line.",
)
@THREADS
def validate(
    *,
    path: str,
    runtime: str,
    probe: str | None,
    corpus_paths: tuple[str, ...],
    neutral_paths: tuple[str, ...],
    human_path: str | None,
    families_path: str | None,
    human_most: int,
    labels_path: str | None,
    also: tuple[str, ...],
    folder: str,
    out: str | None,
    residuals: str | None,
    most: int,
    skip: int | None,
    on_policy: bool,
    responder: str | None,
    responses: int,
    tokens: int,
    languages: tuple[str, ...],
    threads: int | None,
) -> None:
    """Judge a probe and the recipe behind it, against the text alone and chance.

    The recipe is judged as the probe was fitted: with its labels and skipped tokens, and at its
    layers if the user chose them. Residuals and responses are saved in the card's folder: after an
    interruption, the same command continues.
    """
    _check_options(probe, out)
    corpus_paths = corpus_paths or tuple(map(str, corpora.own()))
    neutral_paths = neutral_paths or tuple(map(str, corpora.own_neutrals()))
    known = families(families_path)
    place = Path(folder)
    opened, calibrations = (None, []) if probe is None else open_probe(probe)[:2]
    labels = _labels(labels_path, opened)
    task = _task(labels, opened)
    recipe = {} if opened is None else opened.recipe
    skip = skip if skip is not None else recipe.get("skip", SKIP)
    # Faulty files are reported before a model is opened.
    stories = stories_of(corpus_paths, labels, most)
    plain = [text for p in neutral_paths for text in corpora.read(p)]
    written = read_human(human_path, known) if human_path else None
    if written:
        family_task(known, written[1], task.names)
    exact = open_speaker(path, runtime, threads)
    speaker = open_speaker(responder, threads=threads) if responder else exact
    if opened is not None:
        check_fits(opened, exact)
        if on_policy:
            check_fits(opened, speaker)
            identity = speaker.door.identity
            calibrated(
                opened,
                calibrations,
                identity,
                calibrating(
                    opened, probe, identity, responder or path, AUTO if responder else runtime
                ),
            )
    kept = _readable(exact.door, stories, task)
    _make(place)
    stores = Path(residuals) if residuals else place / "residuals"
    with Bars() as progress:
        reader = Reader(exact.door, stores, skip, progress)
        texts = [
            reader.labelled(name, f"corpus-{n}", each)
            for n, (name, each) in enumerate(kept.items())
        ]
        neutral = reader.labelled("neutral", "neutral", readable(exact.door, plain))
        people = reader.human(*written, human_most) if written else None
        bar = progress.add_task("computing", total=None)
        result = measure(
            task,
            texts,
            neutral,
            layers=recipe.get("layers", ()),
            probe=opened,
            human=people,
            families=known,
            leaks=leaks([text for some in stories.values() for text in some], labels),
            progress=lambda what: progress.update(bar, description=what),
        )
        progress.remove_task(bar)
        heard = Blocks()
        if opened is not None and on_policy:
            hearing = Hearing(place / "answers.jsonl", responses, tokens, languages)
            judged = _judged(opened, carddata.summary(result, heard))
            others = [partial(open_speaker, other, threads=threads) for other in also]
            heard = blocks(
                speaker,
                exact,
                probe=judged,
                calibrations=calibrations,
                task=task,
                texts=texts,
                also=others,
                hearing=hearing,
                progress=follow(progress),
            )
    title = opened.name if opened is not None else f"recipe on {exact.door.identity.name}"
    if out and opened is not None:
        opened = _judged(opened, carddata.summary(result, heard))
        # Verdicts change the file, and so its name.
        title = artifact.loads(artifact.encode(opened, calibrations))[0].name
    # The card comes first: if the probe file cannot be written, hours of work must not be lost.
    _write(place, title, result, heard)
    _print(title, result, heard)
    if out and opened is not None:
        artifact.save(out, opened, calibrations)
        Screen().print(f"Wrote {out}.")


def _check_options(probe: str | None, out: str | None) -> None:
    check_installed("validating", "sklearn", "vaderSentiment", "matplotlib")
    if out:
        check_out("--out", out, ".safetensors")
    if out and probe is None:
        raise EmoGuardError("--out writes a probe with its verdicts: name it with --probe")


def _labels(path: str | None, probe: Probe | None) -> list[Label]:
    """Return the labels of a file, else those the probe was fitted with, else the shipped ones."""
    if probe is None:
        return corpora.read_labels(path)
    known = corpora.read_labels(path) if path else corpora.recorded_labels(probe.recipe)
    emotions = [label for label in probe.labels if label not in probe.axes]
    unknown = set(emotions) - {label.name for label in known}
    if unknown:
        raise EmoGuardError(
            f"the words of {', '.join(sorted(unknown))} are not known: give --labels"
        )
    named = {label.name: label for label in known}
    return [named[name] for name in emotions]  # in the probe's order: JSON keeps none


def _task(labels: Sequence[Label], probe: Probe | None) -> Task:
    axis = probe.axes[0] if probe is not None and probe.axes else VALENCE
    return Task(tuple(n.name for n in labels), tuple(n.valence for n in labels), axis)


def _readable(
    door: Residuals, stories: Mapping[str, Sequence[Text]], task: Task
) -> dict[str, list[Text]]:
    """Return the texts of each corpus that can be read.

    Raises:
        EmoGuardError: they do not suffice to hold any out; the model has read none yet.

    """
    kept = {name: readable(door, texts) for name, texts in stories.items()}
    check(task, [unread(name, texts) for name, texts in kept.items()])
    return kept


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmoGuardError(f"{folder} cannot be made: {error.strerror}") from error


def _write(folder: Path, title: str, result: Any, heard: Blocks) -> None:
    pictures = plots.draw(result, folder, title)
    whole = {"name": title, **carddata.plain(result), **carddata.plain(heard)}
    text = json.dumps(whole, indent=1, allow_nan=False)
    try:
        keptfile.replace(folder / "validation.json", text + "\n")
        keptfile.replace(folder / "card.md", card.markdown(title, result, heard, pictures))
    except OSError as error:
        raise EmoGuardError(f"{folder} cannot be written: {error.strerror}") from error


def _print(title: str, result: Any, heard: Blocks) -> None:
    console = Screen()
    if not console.is_terminal:
        console.width = 180  # a log is as wide as its lines: no interval need be broken
    console.print(printable(title), style="bold", markup=False)
    section = ""
    for each in card.tables(result, heard):
        if each.section != section:
            section = each.section
            console.print(f"\n{section}", style="bold", markup=False)
        table = Table(title=each.title, title_justify="left", box=box.SIMPLE_HEAD)
        for n, column in enumerate(each.columns):
            table.add_column(column, justify="left" if n == 0 else "right", overflow="fold")
        for row in each.rows:
            table.add_row(*(printable(cell) for cell in row))
        console.print(table)
        if each.note:
            console.print(each.note, style="dim", markup=False)


def _judged(probe: Probe, summary: dict[str, Any]) -> Probe:
    """Return the probe with the results of its validation in the card."""
    kept = {k: v for k, v in probe.card.items() if k != "status"}
    return dataclasses.replace(probe, card={**kept, **summary})
