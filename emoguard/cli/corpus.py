"""`emoguard corpus`: let a model write texts to fit a probe on; check texts, labels and prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing

import click

from emoguard import keptfile
from emoguard.cli.bars import Bars
from emoguard.cli.models import MODEL, THREADS
from emoguard.cli.paths import check_out
from emoguard.cli.screen import Screen, say
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora, corpuscheck
from emoguard.fit.writer import Manuscript, Order, orders
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Prompt, answer

LABELS = click.option(
    "--labels",
    "labels_path",
    help="Labels and their words (JSON), or names between commas; default: ours.",
)


@click.group(short_help="Write texts to fit on, or check yours.")
def corpus() -> None:
    """Let a model write texts to fit a probe on, or check the texts you have."""


@corpus.command()
@MODEL
@click.option("--out", required=True, help="The corpus to write (JSON lines).")
@LABELS
@click.option("--topics", "topics_path", help="Topics, one per line; default: ours.")
@click.option(
    "--each",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Texts per label and topic.",
)
@click.option(
    "--tries",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Attempts at a text before it is left.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.9,
    show_default=True,
    help="Of the sampling.",
)
@THREADS
def write(
    path: str,
    out: str,
    labels_path: str | None,
    topics_path: str | None,
    each: int,
    tries: int,
    temperature: float,
    threads: int | None,
) -> None:
    """Let a model write a corpus: every label with every topic, no emotion named.

    Texts that name an emotion, repeat another or are too short are requested again. Every attempt
    is saved in OUT.attempts.jsonl: after an interruption, the same command continues. A corpus by
    the model itself shows the effect of its own words; fit on others, too.
    """
    check_out("--out", out)
    topics = corpora.read_prompts(topics_path) if topics_path else own_topics()
    labels = corpora.read_labels(labels_path)
    wanted = orders(labels, topics, each)
    speaker = open_speaker(path, threads=threads)
    identity = speaker.door.identity
    if not speaker.has_template:
        raise EmoGuardError(
            f"{identity.name} has no chat template: a model that was not taught to follow "
            "instructions cannot be asked for texts; name an instruction-tuned one"
        )
    bound = {
        "model": identity.digest,
        "topics": topics,
        "each": each,
        "tries": tries,
        "temperature": temperature,
        "labels": {label.name: list(label.words) for label in labels},
        "prompt": wanted[0].prompt(0),
    }
    words = [word for label in labels for word in label.words]
    manuscript = Manuscript(f"{out}.attempts.jsonl", bound, words)

    def ask(prompt: str, seed: int) -> str:
        asked = Prompt(prompt, max_tokens=160, temperature=temperature, seed=seed)
        return answer(speaker, asked)

    with closing(manuscript), Bars() as progress:
        bar = progress.add_task("writing texts", total=len(wanted))
        for _ in manuscript.write(wanted, ask, tries):
            progress.advance(bar)
    _save(out, wanted, manuscript)
    Screen().print(_summary(out, wanted, manuscript), markup=False, soft_wrap=True)


@corpus.command()
@click.argument("paths", nargs=-1, metavar="[CORPUS...]")
@click.option(
    "--neutral", "neutral_paths", multiple=True, help="JSON lines with text, without emotion."
)
@click.option("--prompts", "prompts_path", help="Neutral prompts, one per line.")
@LABELS
@click.pass_context
def check(
    ctx: click.Context,
    paths: tuple[str, ...],
    neutral_paths: tuple[str, ...],
    prompts_path: str | None,
    labels_path: str | None,
) -> None:
    """Say what is wrong with texts, labels and prompts, by file and line; no model is needed.

    Exit code 1 where `emoguard fit` or `emoguard validate` would refuse them. The rest are reasons
    to doubt a probe that is made of them: texts that name their label, that repeat one another,
    that differ in length or topics from one label to the next.
    """
    labels = corpora.read_labels(labels_path)
    if not (paths or neutral_paths or prompts_path or labels_path):
        raise click.UsageError("name the files to check: CORPUS, --neutral, --prompts or --labels")
    found = corpuscheck.check_corpora(paths, labels) if paths else []
    found += corpuscheck.check_neutral(neutral_paths) if neutral_paths else []
    found += corpuscheck.check_prompts(prompts_path) if prompts_path else []
    for finding in found:
        say(f"{finding.place}: {'' if finding.fatal else 'caution: '}{finding.sentence}")
    fatal = sum(finding.fatal for finding in found)
    say(f"{fatal} to mend, {len(found) - fatal} to know of." if found else "Nothing is wrong.")
    if fatal:
        ctx.exit(1)


def own_topics() -> list[str]:
    """Return the topics of the package's own corpus."""
    return list(dict.fromkeys(text.topic for text in corpora.read(corpora.own_stories())))


def _save(out: str, wanted: Sequence[Order], manuscript: Manuscript) -> None:
    """Write the accepted texts, in the order of the corpus."""
    lines = [
        json.dumps(
            {
                "emotion": order.label.name,
                "topic": order.topic,
                "person": order.person,
                "text": manuscript.accepted[order.key],
            },
            ensure_ascii=False,
        )
        for order in wanted
        if order.key in manuscript.accepted
    ]
    try:
        keptfile.replace(out, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise EmoGuardError(f"{out} cannot be written: {error.strerror}") from error


def _summary(out: str, wanted: Sequence[Order], manuscript: Manuscript) -> str:
    rejected = ", ".join(f"{n} {reason}" for reason, n in manuscript.rejected.most_common())
    missing = len(wanted) - len(manuscript.accepted)
    return (
        f"Wrote {out}: {len(manuscript.accepted)} of {len(wanted)} texts"
        f"{f', {missing} given up' if missing else ''}. "
        f"Rejected attempts: {manuscript.rejected.total()}{f' ({rejected})' if rejected else ''}."
    )
