"""`emoguard corpus`: has a model write texts for a probe; checks texts, labels and prompts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import click

from emoguard import keptfile
from emoguard.cli.bars import Bars
from emoguard.cli.models import LABELS, MODEL, THREADS
from emoguard.cli.paths import check_out
from emoguard.cli.screen import Screen, say
from emoguard.errors import EmoGuardError
from emoguard.extras import check_installed
from emoguard.fit import corpora, corpuscheck
from emoguard.fit.corpora import Label, Text
from emoguard.fit.voiced import voiced
from emoguard.fit.writer import Manuscript, Wanted, orders
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Prompt, answer
from emoguard.validate.estimate import Estimate
from emoguard.validate.moved import moved

QUESTIONS = 24
"""Number of everyday questions to answer, unless a file has others."""

CHANCE = 0.5

W = TypeVar("W", bound=Wanted[Any])


@click.group(short_help="Write texts to fit on, or check yours.")
def corpus() -> None:
    """Let a model write texts to fit a probe on, or check the texts you have."""


@corpus.command()
@MODEL
@click.option("--out", required=True, help="The corpus to write (JSON lines).")
@LABELS
@click.option("--topics", "topics_path", help="Topics, one per line; default: the package's.")
@click.option(
    "--answers",
    is_flag=True,
    help="Keep answers to everyday questions (--topics: questions), given in each label's voice.",
)
@click.option(
    "--voices",
    "voices_path",
    help="Corpus of earlier answers for --answers; default: the package's.",
)
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
    help="Attempts at a text before giving it up.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.9,
    show_default=True,
    help="Temperature of the sampling.",
)
@THREADS
def write(
    path: str,
    out: str,
    labels_path: str | None,
    topics_path: str | None,
    answers: bool,
    voices_path: str | None,
    each: int,
    tries: int,
    temperature: float,
    threads: int | None,
) -> None:
    """Let a model write a corpus: every label with every topic, no emotion named.

    Texts that name an emotion, repeat another or are too short are requested again. Every attempt
    is saved in OUT.attempts.jsonl: after an interruption, the same command continues. A corpus by
    the model itself shows the effect of its own words; fit on others, too.

    With --answers the model answers everyday questions, as in watched traffic, after two earlier
    answers in the voice of the label. Neutral answers to the same questions are written beside OUT,
    for --neutral. The last lines show for each label whether the text of its answers differs from
    the neutral ones; if it does not, the model was not moved.
    """
    check_out("--out", out)
    if answers:
        check_installed("showing what answers express", "sklearn", "vaderSentiment")
    labels = corpora.read_labels(labels_path)
    if answers:
        voices, neutral = _voices(voices_path, labels), _neutral()
        questions = corpora.read_prompts(topics_path) if topics_path else own_questions()
        wanted = voiced(labels, voices, neutral, questions, each)
        texts = _write(path, out, labels, wanted, tries, temperature, threads)
        for line in _seen(moved(labels, [*voices, *neutral], texts)):
            Screen().print(line, markup=False, soft_wrap=True)
    else:
        topics = corpora.read_prompts(topics_path) if topics_path else own_topics()
        _write(path, out, labels, orders(labels, topics, each), tries, temperature, threads)


def _write(
    path: str,
    out: str,
    labels: Sequence[Label],
    wanted: Sequence[W],
    tries: int,
    temperature: float,
    threads: int | None,
) -> list[tuple[W, str]]:
    """Let the model write the texts; save and return the accepted ones."""
    speaker = open_speaker(path, threads=threads)
    identity = speaker.door.identity
    if not speaker.has_template:
        raise EmoGuardError(
            f"{identity.name} has no chat template: a model that was not taught to follow "
            "instructions cannot be asked for texts; name an instruction-tuned one"
        )
    prompts = repr([each.prompt(0) for each in wanted])
    bound = {
        "model": identity.digest,
        "tries": tries,
        "temperature": temperature,
        "labels": {label.name: list(label.words) for label in labels},
        "prompts": hashlib.sha256(prompts.encode()).hexdigest(),
    }
    words = [word for label in labels for word in label.words]
    manuscript = Manuscript(f"{out}.attempts.jsonl", bound, words)

    def ask(prompt: str | Prompt, seed: int) -> str:
        request = prompt if isinstance(prompt, Prompt) else Prompt(prompt, max_tokens=160)
        return answer(speaker, dataclasses.replace(request, temperature=temperature, seed=seed))

    with closing(manuscript), Bars() as progress:
        bar = progress.add_task("writing texts", total=len(wanted))
        for _ in manuscript.write(wanted, ask, tries):
            progress.advance(bar)
    accepted = [(e, manuscript.accepted[e.key]) for e in wanted if e.key in manuscript.accepted]
    neutral = [each for each in accepted if not each[0].key[0]]
    _save(out, [each for each in accepted if each[0].key[0]])
    if neutral:
        _save(f"{out}.neutral.jsonl", neutral)
    Screen().print(_summary(out, len(wanted), manuscript), markup=False, soft_wrap=True)
    return accepted


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
    """Check texts, labels and prompts by file and line; no model is needed.

    Exit code 1 if `emoguard fit` or `emoguard validate` would refuse them. Other findings are
    reasons to doubt a probe made from them: texts that name their label, repeat one another, or
    differ in length or topics between labels.
    """
    labels = corpora.read_labels(labels_path)
    if not (paths or neutral_paths or prompts_path or labels_path):
        raise click.UsageError("name the files to check: CORPUS, --neutral, --prompts or --labels")
    findings = corpuscheck.check_labels(labels_path, labels) if labels_path else []
    findings += corpuscheck.check_corpora(paths, labels) if paths else []
    findings += corpuscheck.check_neutral(neutral_paths) if neutral_paths else []
    findings += corpuscheck.check_prompts(prompts_path) if prompts_path else []
    for finding in findings:
        say(f"{finding.place}: {'' if finding.fatal else 'caution: '}{finding.sentence}")
    fatal = sum(finding.fatal for finding in findings)
    say(
        f"{fatal} to mend, {len(findings) - fatal} to know of." if findings else "Nothing is wrong."
    )
    if fatal:
        ctx.exit(1)


def own_topics() -> list[str]:
    """Return the topics of the package's own corpus."""
    return list(dict.fromkeys(text.topic for text in corpora.read(corpora.own_stories())))


def own_questions() -> list[str]:
    """Return everyday questions of the package: the short ones among its calibration prompts."""
    short = [q for q in corpora.neutral_prompts()[: corpora.CALIBRATING] if len(q.split()) <= 20]
    return short[:QUESTIONS]


def _voices(path: str | None, labels: Sequence[Label]) -> list[Text]:
    """Return the texts to use as earlier answers."""
    paths = [path] if path else corpora.own()
    return [text for each in paths for text in corpora.read(each, labels)]


def _neutral() -> list[Text]:
    return [text for path in corpora.own_neutrals() for text in corpora.read(path)]


def _seen(shown: Mapping[str, Estimate]) -> Iterator[str]:
    """Yield lines on how well the text of the answers shows each label."""
    yield "The text tells a label's answers from the neutral ones with an AUROC of:"
    for label, area in sorted(shown.items(), key=lambda each: -each[1].value):
        unseen = "" if area.low > CHANCE else "  not shown: fit this label on stories instead"
        yield f"  {label:12} {area}{unseen}"


def _save(out: str, accepted: Sequence[tuple[Wanted[Any], str]]) -> None:
    """Write the accepted texts, in the order of the corpus."""
    lines = [
        json.dumps({**order.record, "text": text}, ensure_ascii=False) for order, text in accepted
    ]
    try:
        keptfile.replace(out, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise EmoGuardError(f"{out} cannot be written: {error.strerror}") from error


def _summary(out: str, wanted: int, manuscript: Manuscript) -> str:
    rejected = ", ".join(f"{n} {reason}" for reason, n in manuscript.rejected.most_common())
    missing = wanted - len(manuscript.accepted)
    return (
        f"Wrote {out}: {len(manuscript.accepted):,} of {wanted:,} texts"
        f"{f', {missing} given up' if missing else ''}. "
        f"Rejected attempts: {manuscript.rejected.total()}{f' ({rejected})' if rejected else ''}."
    )
