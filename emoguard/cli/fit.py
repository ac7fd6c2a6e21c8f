"""`emoguard fit`: makes a probe for your own model, judges it, and shows it on one page."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from emoguard.cli.again import again
from emoguard.cli.bars import Bars, follow
from emoguard.cli.fitjob import Job
from emoguard.cli.fitpage import write_page
from emoguard.cli.fitwords import announce, finished
from emoguard.cli.models import ALSO, LABELS, MODEL, MOST, RESPONDER, RUNTIME, THREADS, TOKENS
from emoguard.cli.paths import check_out
from emoguard.cli.reading import readable, stories_of
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.extras import check_installed
from emoguard.fit import calibrating, corpora
from emoguard.fit.examples import example_prompts
from emoguard.fit.extraction import SKIP
from emoguard.fit.forecast import seconds
from emoguard.fit.responses import Sampling
from emoguard.fit.scope import Scope
from emoguard.probe import artifact
from emoguard.probe.artifact import LONGEST_NAME, check_name
from emoguard.probe.certificate import ENOUGH_RESPONSES
from emoguard.probe.identity import ModelIdentity, model_name
from emoguard.runtime.openers import AUTO, open_speaker
from emoguard.sinks.policy import AlarmPolicy

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIX = "-probe.safetensors"
"""Suffix of a probe without --out, so that it never takes the name of the weights beside it."""


@click.command(short_help="Make a probe for a model.")
@MODEL
@RUNTIME
@click.option(
    "--quick",
    is_flag=True,
    help="A provisional probe from a first part of the texts and answers; finish it by the same "
    "command without --quick.",
)
@click.option("--estimate", is_flag=True, help="Estimate the time on this machine, and stop.")
@click.option(
    "--corpus",
    "corpus_paths",
    multiple=True,
    help="JSON lines with emotion, topic, text. Repeat for several; each counts the same. "
    "Default: the package's own two.",
)
@click.option(
    "--neutral",
    "neutral_paths",
    multiple=True,
    help="JSON lines with text, without emotion. Repeat for several. Default: the package's own.",
)
@click.option(
    "--out", help="The probe file to write (.safetensors); default: MODEL-probe.safetensors here."
)
@LABELS
@click.option("--name", default="", help="Name of the probe; default: the model's.")
@ALSO
@RESPONDER
@MOST
@click.option(
    "--skip",
    type=click.IntRange(0),
    default=SKIP,
    show_default=True,
    help="Leading tokens to leave out.",
)
@click.option("--layers", default="", help="Layers to read, e.g. 14,18; default: the best four.")
@click.option(
    "--prompts", "prompts_path", help="Neutral prompts, one per line; default: the package's."
)
@click.option(
    "--language",
    default="en",
    show_default=True,
    help="Language of the prompts: kept with the calibration.",
)
@click.option(
    "--responses",
    type=click.IntRange(8),
    default=ENOUGH_RESPONSES,
    show_default=True,
    help="Responses to calibrate on.",
)
@TOKENS
@click.option("--keep", is_flag=True, help="Keep the work files beside OUT.")
@click.option("--source", multiple=True, help="A line of attribution for the card.")
@THREADS
@click.pass_context
def fit(
    ctx: click.Context,
    *,
    path: str,
    runtime: str,
    quick: bool,
    estimate: bool,
    corpus_paths: tuple[str, ...],
    neutral_paths: tuple[str, ...],
    out: str | None,
    labels_path: str | None,
    name: str,
    also: tuple[str, ...],
    responder: str | None,
    most: int,
    skip: int,
    layers: str,
    prompts_path: str | None,
    language: str,
    responses: int,
    tokens: int,
    keep: bool,
    source: tuple[str, ...],
    threads: int | None,
) -> None:
    """Make a probe file and a page that shows it: directions, a first judgement, calibration.

    Directions are fitted to texts about emotions and judged on a corpus they were not fitted on;
    the calibration comes from the model's own answers. The first lines estimate the time for each
    part on this machine. Work is saved beside OUT along the way: after an interruption, the same
    command continues.
    """
    check_installed("fitting", "sklearn", "vaderSentiment")
    if name:
        check_name(name, "--name")
    place = _place(out, path, is_made=not estimate)
    named = _numbers(layers)
    labels = corpora.read_labels(labels_path)
    source = source or tuple(Path(p).name for p in corpus_paths) or ("the package's own corpora",)
    named_texts = [("--corpus", each) for each in corpus_paths]
    named_texts += [("--neutral", each) for each in neutral_paths]
    corpus_paths = corpus_paths or tuple(map(str, corpora.own()))
    neutral_paths = neutral_paths or tuple(map(str, corpora.own_neutrals()))
    stories = stories_of(corpus_paths, labels, most)
    neutral = [corpora.read(p) for p in neutral_paths]
    prompts = corpora.read_prompts(prompts_path) if prompts_path else calibrating.own_prompts()
    whole = Scope(most, responses)
    scope = whole.quick() if quick else whole
    with Bars() as progress:
        opening = progress.add_task(f"opening {Path(path).name}", total=1)
        reader = open_speaker(path, runtime, threads)
        speaker = open_speaker(responder, threads=threads) if responder else reader
        others = [partial(open_speaker, other, threads=threads) for other in also]
        _check_sizes(
            reader.door.identity,
            [speaker.door.identity, *(opener().door.identity for opener in others)],
        )
        job = Job(
            reader=reader,
            speaker=speaker,
            others=[(lambda: reader), *others] if responder else others,
            labels=labels,
            corpora={name: readable(reader.door, texts) for name, texts in stories.items()},
            neutral=[readable(reader.door, each) for each in neutral],
            layers=named,
            skip=skip,
            scope=scope,
            sample=calibrating.NeutralSample(
                prompts, Sampling(tokens, language=language), scope.responses, AlarmPolicy()
            ),
            example_prompts=example_prompts(labels),
            out=place,
        )
        progress.update(opening, completed=1)
        measuring = progress.add_task("measuring how fast it is here", total=1)
        speed = job.speed()
        progress.update(measuring, completed=1)
        parts = job.forecast(speed, scope)
        # Where there is a probe already, the quick fit is behind us.
        offer = not (quick or Path(place).exists())
        announce(job, parts, job.forecast(speed, whole.quick()) if offer else None)
        if estimate:
            return
        start = _clocks()
        probe = job.make(name or _named(reader.door.identity), source, progress)
        show = follow(progress)
        calibrating.calibrate_files(
            probe, [], speaker, job.others, sample=job.sample, out=place, progress=show
        )
        page, guard = write_page(
            place,
            speaker,
            model=responder or path,
            runtime=AUTO if responder else runtime,
            example_prompts=job.example_prompts,
            most=job.shown(scope),
            texts=[part for option in named_texts for part in option],
            finish=again(ctx, without=("quick",)) if quick else None,
            progress=show,
        )
        took = _clocks() - start
    if not (keep or quick):
        job.clear()
    finished(job, guard, page, took, seconds(parts))
    if quick:
        Screen().print(f"Finish it with: {again(ctx, without=('quick',))}", soft_wrap=True)


def _clocks() -> NDArray[np.float64]:
    """Return wall-clock and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def _place(out: str | None, model: str, *, is_made: bool) -> str:
    """Return the probe file to write; the default name must not replace a finished probe.

    Raises:
        EmoGuardError: the file cannot be written, or exists already.

    """
    # Not resolved: files in the hub's cache are links to others that are named by their hash.
    path = Path(os.path.abspath(model))  # noqa: PTH100
    # Path.is_file raises where a folder may not be searched.
    name = path.stem if os.path.isfile(path) else model_name(path)  # noqa: PTH113
    place = out or f"{name}{SUFFIX}"
    check_out("--out", place, ".safetensors")
    if is_made and out is None and Path(place).exists() and not _is_begun(place):
        raise EmoGuardError(
            f"{place} is there already, and finished: give another --out, or look at it with "
            f"emoguard show {place}"
        )
    return place


def _is_begun(place: str) -> bool:
    """Return whether this command left the probe file unfinished.

    Answers beside it are no sign: `emoguard calibrate` leaves them, too.
    """
    try:
        provisional = artifact.load(place)[0].is_provisional
    except EmoGuardError:
        return False
    return provisional or Path(f"{place}.residuals").exists()


def _named(identity: ModelIdentity) -> str:
    """Return a model's name as a probe file can hold it: in one line, of printable characters."""
    shown = "".join(c if c.isprintable() else " " for c in identity.name)
    return " ".join(shown.split())[:LONGEST_NAME] or "probe"


def _check_sizes(mine: ModelIdentity, others: Sequence[ModelIdentity]) -> None:
    """Raise if files differ in size, before hours of reading; the witness is checked after it."""
    for each in others:
        if (each.layers, each.hidden) != (mine.layers, mine.hidden):
            raise EmoGuardError(
                "--responder and --also take other files of the same weights as --model, which has "
                f"{mine.layers} layers of width {mine.hidden}; {each.name} has {each.layers} of "
                f"width {each.hidden}"
            )


def _numbers(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise EmoGuardError(f"--layers takes numbers such as 14,18, got {text!r}") from None
