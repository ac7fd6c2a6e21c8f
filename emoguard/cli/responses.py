"""The model's own responses to held-out prompts, and what detectors make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emoguard.calibration import Calibration
from emoguard.cli.calibrate import Opened, check
from emoguard.crossing import rolling_mean
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.answers import AnswerFile
from emoguard.fit.responses import SHORTEST, Answer, Sampling, answers
from emoguard.fit.responses import calibrate as measure
from emoguard.fit.textonly import TextOnly
from emoguard.fit.validation.agreement import (
    Agreement,
    Invariance,
    agreement,
    batch_difference,
    padding_difference,
    read_z,
)
from emoguard.fit.validation.card import Blocks
from emoguard.fit.validation.onpolicy import FALLBACK, Prompt, Response, on_policy, prompts
from emoguard.guard import Guard
from emoguard.policy import Policy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.progress import Progress

    from emoguard.fit.validation.judged import Task
    from emoguard.fit.validation.reading import Texts
    from emoguard.identity import ModelIdentity
    from emoguard.policy import AlarmPolicy
    from emoguard.probe import Probe

COMPARED = 120
"""Responses that other files of the model read as well."""

TOGETHER = 24
"""Texts that are read together and alone."""


@dataclass(frozen=True)
class Hearing:
    """Which responses are made, and the file they are kept in."""

    file: Path
    neutral: int
    tokens: int
    languages: tuple[str, ...]
    threads: int | None

    def prompts(self) -> list[Prompt]:
        """Return what is asked: neutral prompts no calibration has seen, persona, benign."""
        held_out = corpora.neutral_prompts()[corpora.CALIBRATING :][: self.neutral]
        found = [Prompt("neutral", "", text) for text in held_out]
        for each in self.languages:
            tag, _, path = each.partition("=")
            if not path:
                raise EmoGuardError(f"--language takes TAG=FILE, such as de=fragen.txt, got {each}")
            found += [Prompt("neutral", "", t, tag) for t in corpora.read_prompts(path)]
        return [*found, *prompts("persona"), *prompts("benign")]


def blocks(
    opened: Opened,
    exact: Opened,
    probe: Probe,
    calibrations: Sequence[Calibration],
    task: Task,
    texts: Sequence[Texts],
    also: Sequence[str],
    hearing: Hearing,
    progress: Progress,
) -> Blocks:
    """Return what needs the model at hand: on-policy, other files, invariance.

    `opened` is the file that responds, `exact` the one that read the texts.

    Raises:
        EmoGuardError: no calibration of this model file.

    """
    # Every label is judged, whatever an earlier validation found.
    guard = Guard(probe, calibrations, Policy(labels=probe.labels))
    calibration = calibrated(probe, calibrations, opened.door.identity)
    asked = hearing.prompts()
    said = _answers(opened, asked, hearing, progress)
    bar = progress.add_task("reading responses", total=len(said))
    z = []
    for answer in said:
        z += read_z(opened.door, probe, calibration, [answer], task.targets)
        progress.advance(bar)
    heard = [
        Response(prompt, _text(opened, answer), rows)
        for prompt, answer, rows in zip(asked, said, z, strict=True)
    ]
    levels = _certified(guard, opened, task)
    alarms = guard.policy.alarms
    measured = on_policy(
        task,
        heard,
        levels,
        _words(task, texts, [r.text for r in heard]),
        window=alarms.window_tokens,
        hysteresis=alarms.hysteresis_sd,
    )
    chosen = _spread(len(said), COMPARED)
    some = _Some(
        [said[n] for n in chosen],
        [z[n] for n in chosen],
        np.array([asked[n].kind == "neutral" for n in chosen]),
    )
    agreements = [
        _agreement(opened, path, guard, task, some, alarms, hearing, progress) for path in also
    ]
    return Blocks(measured, tuple(agreements), _invariance(opened, exact, guard, texts))


def calibrated(
    probe: Probe, calibrations: Sequence[Calibration], identity: ModelIdentity
) -> Calibration:
    """Return the calibration of a model file, without which no response has a z.

    Raises:
        EmoGuardError: there is none.

    """
    for each in calibrations:
        if each.identity.matches(identity):
            return each
    raise EmoGuardError(
        f"{probe.name} has no calibration of {identity.name} ({identity.quantisation}): run "
        "emoguard calibrate first, or validate with --no-on-policy"
    )


@dataclass(frozen=True, eq=False)
class _Some:
    """Responses that two files read, z in the first, and which are to neutral prompts."""

    said: list[Answer]
    z: list[NDArray[np.float32]]
    neutral: NDArray[np.bool_]


def _answers(
    opened: Opened, asked: Sequence[Prompt], hearing: Hearing, progress: Progress
) -> list[Answer]:
    sampling = Sampling(hearing.tokens)
    texts = [prompt.text for prompt in asked]
    identity = opened.door.identity
    bound = {"model": identity.digest, **sampling.context(identity.template, texts)}
    bar = progress.add_task("responding", total=len(texts))

    def made(start: int) -> Iterator[Answer]:
        progress.update(bar, completed=start)
        for answer in answers(opened.model, opened.tokenizer, texts, sampling, start=start):
            yield answer
            progress.advance(bar)

    file = AnswerFile(hearing.file, bound)
    file.extend(made, lambda found: len(found) == len(texts))
    progress.update(bar, completed=len(texts))
    return file.answers


def _text(opened: Opened, answer: Answer) -> str:
    if opened.tokenizer is None:
        return str(opened.model.detokenize(answer.token_ids).decode(errors="replace"))
    return str(opened.tokenizer.decode(answer.token_ids, skip_special_tokens=True))


def _words(
    task: Task, texts: Sequence[Texts], said: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return scores of text-only detectors, each (responses, targets)."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    detector = TextOnly(
        [text for each in texts for text in each.texts],
        np.concatenate([each.labels for each in texts]),
        task.names,
    )
    found = {
        name: task.with_axis(scores)
        for name, scores in detector.scores(said).items()
        if name != "length"
    }
    analyser = SentimentIntensityAnalyzer()
    compound = np.array([analyser.polarity_scores(text)["compound"] for text in said])
    signs = [*task.signs, 1][: len(task.targets)]
    return {**found, "VADER": compound[:, None] * np.array(signs)}


def _certified(guard: Guard, opened: Opened, task: Task) -> list[float | None]:
    thresholds = dict(zip(guard.labels, guard.thresholds(opened.door.identity), strict=True))
    found = [thresholds[target] for target in task.targets]
    return [None if each is None else each.level for each in found]


def _agreement(
    opened: Opened,
    path: str,
    guard: Guard,
    task: Task,
    some: _Some,
    alarms: AlarmPolicy,
    hearing: Hearing,
    progress: Progress,
) -> Agreement:
    other = Opened.load(path, hearing.threads)
    check(guard.probe, other)
    name, window = other.door.identity.quantisation, alarms.window_tokens
    bar = progress.add_task(f"comparing with {name}", total=2)
    again = read_z(
        opened.door, guard.probe, guard.calibration(opened.door.identity), some.said, task.targets
    )
    progress.advance(bar)
    own = guard.calibration(other.door.identity)
    if own is None:  # the neutral ones among these responses serve
        long = [a for a, plain in zip(some.said, some.neutral, strict=True) if plain]
        own = measure(other.door, guard.probe, [a for a in long if len(a.token_ids) >= SHORTEST])
    read = read_z(other.door, guard.probe, own, some.said, task.targets)
    progress.advance(bar)
    levels = [
        _flag_levels(_certified(guard, o, task), rows, some.neutral, window)
        for o, rows in ((opened, some.z), (other, read))
    ]
    return agreement(
        (opened.door.identity.quantisation, name),
        z=some.z,
        other=read,
        again=again,
        levels=(levels[0], levels[1]),
        window=window,
    )


def _flag_levels(
    certified: Sequence[float | None],
    z: Sequence[NDArray[np.float32]],
    neutral: NDArray[np.bool_],
    window: int,
) -> NDArray[np.float64]:
    """Return certified levels, else what 5 % of the neutral responses reach in this file."""
    if None not in certified:
        return np.array(certified, float)
    rolling = [rolling_mean(rows, window) for rows, n in zip(z, neutral, strict=True) if n]
    peaks = np.array([rows.max(axis=0) for rows in rolling if len(rows)])
    return np.asarray(np.quantile(peaks, 1 - FALLBACK, axis=0))


def _invariance(opened: Opened, exact: Opened, guard: Guard, texts: Sequence[Texts]) -> Invariance:
    some = [text for each in texts for text in list(each.texts)[: TOGETHER // len(texts)]]
    together = batch_difference(opened.door, some, guard.probe.layers)
    for each in (opened, exact):
        if each.tokenizer is not None:  # only Transformers pads
            found = padding_difference(each.model, each.tokenizer, guard, some[:8])
            return Invariance(together, found)
    return Invariance(together, None)


def _spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` of `count` numbers, evenly spread."""
    return sorted({int(n) for n in np.linspace(0, count - 1, min(count, wanted))})
