"""`emoguard fit`: make a probe file for a model of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from emoguard.cli.bars import Bars, follow
from emoguard.cli.models import ALSO, MODEL, RUNTIME
from emoguard.cli.paths import check_out
from emoguard.cli.reading import readable
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.fit import calibrating, corpora, store
from emoguard.fit.recipe import fit as make_probe
from emoguard.fit.responses import Sampling
from emoguard.probe.certificate import ENOUGH_RESPONSES
from emoguard.probe.identity import ModelIdentity
from emoguard.reporttable import printable
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Speaker
from emoguard.sinks.policy import AlarmPolicy


@click.command(short_help="Make a probe for a model.")
@MODEL
@RUNTIME
@click.option(
    "--corpus",
    "corpus_paths",
    multiple=True,
    help="JSON lines with emotion, topic, text. Repeat for several; each counts the same. "
    "Default: the package's own.",
)
@click.option(
    "--neutral",
    "neutral_paths",
    multiple=True,
    help="JSON lines with text, without emotion. Repeat for several. Default: the package's own.",
)
@click.option("--out", required=True, help="The probe file to write (.safetensors).")
@click.option("--labels", "labels_path", help="Labels and their words (JSON); default: ours.")
@click.option("--name", default="", help="Name of the probe; default: the model's.")
@ALSO
@click.option(
    "--responder",
    help="The file of the same weights that answers, such as the quantised one that is served "
    "while --model, which reads the texts, is a faster or exacter one; default: --model.",
)
@click.option(
    "--most",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    help="Texts per label and corpus.",
)
@click.option(
    "--skip",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Leading tokens to leave out.",
)
@click.option("--layers", default="", help="Layers to read, e.g. 14,18; default: the best four.")
@click.option("--prompts", "prompts_path", help="Neutral prompts, one per line; default: ours.")
@click.option(
    "--responses",
    type=click.IntRange(8),
    default=ENOUGH_RESPONSES,
    show_default=True,
    help="Responses to calibrate on.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Most tokens per response.",
)
@click.option("--keep", is_flag=True, help="Keep the residuals of the texts in OUT.residuals.")
@click.option("--source", multiple=True, help="A line of attribution for the card.")
def fit(
    path: str,
    runtime: str,
    corpus_paths: tuple[str, ...],
    neutral_paths: tuple[str, ...],
    out: str,
    labels_path: str | None,
    name: str,
    also: tuple[str, ...],
    responder: str | None,
    most: int,
    skip: int,
    layers: str,
    prompts_path: str | None,
    responses: int,
    tokens: int,
    keep: bool,
    source: tuple[str, ...],
) -> None:
    """Make a probe file: directions from corpora, calibration from the model's own answers.

    What is slow is kept beside OUT as it comes, residuals in OUT.residuals and answers in
    OUT.answers.jsonl: after an interruption the same command goes on where it was.
    """
    check_out("--out", out, ".safetensors")
    named = _numbers(layers)
    labels = corpora.read_labels(labels_path)
    source = source or tuple(Path(p).name for p in corpus_paths) or ("the package's own corpora",)
    corpus_paths = corpus_paths or tuple(map(str, corpora.own()))
    texts = [corpora.balanced(corpora.read(p, labels), most) for p in corpus_paths]
    neutral_paths = neutral_paths or tuple(map(str, corpora.own_neutrals()))
    neutral = [text for p in neutral_paths for text in corpora.read(p)]
    sample = calibrating.NeutralSample(
        corpora.read_prompts(prompts_path) if prompts_path else calibrating.own_prompts(),
        Sampling(tokens),
        responses,
        AlarmPolicy(),
    )
    reader = open_speaker(path, runtime)
    speaker = open_speaker(responder) if responder else reader
    _check_sizes(
        reader.door.identity,
        [speaker.door.identity, *(open_speaker(other).door.identity for other in also)],
    )
    texts, neutral = [readable(reader.door, each) for each in texts], readable(reader.door, neutral)
    count = len(neutral) + sum(map(len, texts))
    with Bars() as progress:
        show = follow(progress)
        probe = make_probe(
            reader.door,
            texts,
            neutral,
            labels,
            f"{out}.residuals",
            name=name or reader.door.identity.name,
            layers=named,
            skip=skip,
            progress=lambda done: show("reading texts", done, count),
            sources=source,
        )
        others: list[Callable[[], Speaker]] = [partial(open_speaker, other) for other in also]
        if responder:
            others.insert(0, lambda: reader)
        calibrations = calibrating.calibrate_files(
            probe, [], speaker, others, sample=sample, out=out, progress=show
        )
    if not keep:
        store.remove(f"{out}.residuals")
    Screen().print(
        f"Wrote {out}: {len(probe.labels)} labels at layers {', '.join(map(str, probe.layers))}, "
        f"calibrated on {calibrations[0].responses} responses. "
        f"Look at it with: emoguard show {out}",
        markup=False,
        soft_wrap=True,
    )
    for caution in probe.cautions:
        Screen(stderr=True).print(
            printable(f"Caution: {caution}."), style="yellow", markup=False, soft_wrap=True
        )


def _check_sizes(mine: ModelIdentity, others: Sequence[ModelIdentity]) -> None:
    """Refuse files of other models before hours of reading; the witness decides after it."""
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
