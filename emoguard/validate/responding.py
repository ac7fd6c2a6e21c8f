"""Lets the model respond to held-out prompts, and compares detectors on the responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emoguard.advice import calibrate_command
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.answers import answered
from emoguard.fit.calibrating import Progress, check_fits
from emoguard.fit.responses import SHORTEST, Sampling
from emoguard.fit.responses import calibrate as measure
from emoguard.fit.textonly import TEXT_ONLY, TextOnly
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.probe.calibration import Calibration
from emoguard.probe.crossing import rolling_mean
from emoguard.runtime.speaker import Generated, Speaker
from emoguard.validate.agreement import (
    HALF,
    TOLERANCE,
    Agreement,
    Invariance,
    agreement,
    batch_difference,
    padding_difference,
    read_z,
)
from emoguard.validate.carddata import Blocks
from emoguard.validate.onpolicy import FALLBACK, Prompt, Response, on_policy, prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.identity import ModelIdentity
    from emoguard.probe.probe import Probe
    from emoguard.sinks.policy import AlarmPolicy
    from emoguard.validate.judged import Task
    from emoguard.validate.reading import Texts

COMPARED = 120
"""Number of responses that other files of the model read as well."""

TOGETHER = 24
"""Number of texts to read both together and alone."""


@dataclass(frozen=True)
class Hearing:
    """The responses to make, and their file."""

    file: Path
    neutral: int
    tokens: int
    languages: tuple[str, ...]

    def prompts(self) -> list[Prompt]:
        """Return the prompts: neutral ones held out from calibrations, persona, benign."""
        held_out = corpora.neutral_prompts()[corpora.CALIBRATING :][: self.neutral]
        neutral = [Prompt("neutral", "", text) for text in held_out]
        for each in self.languages:
            tag, _, path = each.partition("=")
            if not path:
                raise EmoGuardError(f"--language takes TAG=FILE, such as de=fragen.txt, got {each}")
            neutral += [Prompt("neutral", "", t, tag) for t in corpora.read_prompts(path)]
        return [*neutral, *prompts("persona"), *prompts("benign")]


def blocks(
    speaker: Speaker,
    exact: Speaker,
    *,
    probe: Probe,
    calibrations: Sequence[Calibration],
    task: Task,
    texts: Sequence[Texts],
    also: Sequence[Callable[[], Speaker]],
    hearing: Hearing,
    progress: Progress,
) -> Blocks:
    """Return the measurements that need the model: on-policy, other files, invariance.

    `speaker` makes the responses, `exact` has read the texts; `also` open other files of the same
    weights.

    Raises:
        EmoGuardError: no calibration of this model file.

    """
    # Every label is judged, whatever its earlier verdict.
    guard = Guard(probe, calibrations, Policy(labels=probe.labels))
    calibration = calibrated(probe, calibrations, speaker.door.identity)
    all_prompts = hearing.prompts()
    generated = _responses(speaker, all_prompts, hearing, progress)
    z = []
    for number, each in enumerate(generated, 1):
        z += read_z(speaker.door, probe, calibration, [each], task.targets)
        progress("reading responses", number, len(generated))
    heard = [
        Response(prompt, speaker.decode(each.token_ids), rows)
        for prompt, each, rows in zip(all_prompts, generated, z, strict=True)
    ]
    alarms = guard.policy.alarms
    measured = on_policy(
        task,
        heard,
        _certified(probe, calibrations, speaker.door.identity, task),
        _words(task, texts, [r.text for r in heard]),
        window=alarms.window_tokens,
        hysteresis=alarms.hysteresis_sd,
    )
    chosen = _spread(len(generated), COMPARED)
    some = _Some(
        [generated[n] for n in chosen],
        [z[n] for n in chosen],
        np.array([all_prompts[n].kind == "neutral" for n in chosen]),
    )
    agreements = [
        _agreement(
            speaker,
            opener(),
            guard=guard,
            calibrations=calibrations,
            task=task,
            some=some,
            alarms=alarms,
            progress=progress,
        )
        for opener in also
    ]
    return Blocks(measured, tuple(agreements), _invariance(speaker, exact, guard, texts))


def calibrated(
    probe: Probe,
    calibrations: Sequence[Calibration],
    identity: ModelIdentity,
    command: str = calibrate_command(),
) -> Calibration:
    """Return the calibration of a model file; without one no response has a z.

    Raises:
        EmoGuardError: there is no calibration; `command` makes one.

    """
    for each in calibrations:
        if each.identity.matches(identity):
            return each
    raise EmoGuardError(
        f"{probe.name} has no calibration of {identity.name} ({identity.quantisation}): make one "
        f"with {command}, or validate with --no-on-policy"
    )


@dataclass(frozen=True, eq=False)
class _Some:
    """Responses for two files to read, z in the first file, and a mask of neutral prompts."""

    answers: list[Generated]
    z: list[NDArray[np.float32]]
    neutral: NDArray[np.bool_]


def _responses(
    speaker: Speaker, all_prompts: Sequence[Prompt], hearing: Hearing, progress: Progress
) -> list[Generated]:
    texts = [prompt.text for prompt in all_prompts]

    def enough(generated: list[Generated]) -> bool:
        progress("responding", len(generated), len(texts))
        return len(generated) == len(texts)

    return answered(speaker, texts, Sampling(hearing.tokens), hearing.file, enough)


def _words(
    task: Task, texts: Sequence[Texts], answers: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return scores of text-only detectors, each (responses, targets)."""
    detector = TextOnly(
        [text for each in texts for text in each.texts],
        np.concatenate([each.labels for each in texts]),
        task.names,
        task.signs,
    )
    scores = detector.scores(answers)
    return {name: task.with_axis(scores[name]) for name in TEXT_ONLY}


def _certified(
    probe: Probe, calibrations: Sequence[Calibration], identity: ModelIdentity, task: Task
) -> list[float | None]:
    """Return the thresholds of alarms, None for a label without a certified one.

    For labels that a default policy watches, these are its thresholds; for the others, those of a
    policy that names all labels.
    """
    levels: dict[str, float | None] = {}
    for policy in (Policy(labels=probe.labels), Policy()):
        guard = Guard(probe, calibrations, policy)
        for label, threshold in guard.site(identity).thresholds.items():
            levels[label] = None if threshold is None else threshold.level
    return [levels[target] for target in task.targets]


def _agreement(
    speaker: Speaker,
    other: Speaker,
    *,
    guard: Guard,
    calibrations: Sequence[Calibration],
    task: Task,
    some: _Some,
    alarms: AlarmPolicy,
    progress: Progress,
) -> Agreement:
    check_fits(guard.probe, other)
    name, window = other.door.identity.quantisation, alarms.window_tokens
    progress(f"comparing with {name}", 0, 1)
    doors = (speaker.door, other.door)
    calibrated_files = [guard.calibration(door.identity) for door in doors]
    certified = [_certified(guard.probe, calibrations, door.identity, task) for door in doors]
    z = some.z
    if calibrated_files[1] is None:
        # Both on the same answers, the neutral ones among these: one on more would tell how much
        # calibrations differ, not files.
        plain = [a for a, n in zip(some.answers, some.neutral, strict=True) if n]
        plain = [a for a in plain if len(a.token_ids) >= SHORTEST]
        calibrated_files = [measure(door, guard.probe, plain) for door in doors]
        certified = [[None] * len(task.targets)] * 2
        z = read_z(doors[0], guard.probe, calibrated_files[0], some.answers, task.targets)
    again, read = (
        read_z(door, guard.probe, own, some.answers, task.targets)
        for door, own in zip(doors, calibrated_files, strict=True)
    )
    progress(f"comparing with {name}", 1, 1)
    return agreement(
        (speaker.door.identity.quantisation, name),
        z=z,
        other=read,
        again=again,
        levels=_flag_levels(certified, (z, read), some.neutral, window),
        window=window,
    )


def _flag_levels(
    certified: Sequence[Sequence[float | None]],
    z: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]],
    neutral: NDArray[np.bool_],
    window: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each file's level per label: certified if both are, else by neutral responses.

    The latter is the level that 5 % of the neutral responses reach in that file.
    """
    both = [None not in pair for pair in zip(*certified, strict=True)]
    by_file = []
    for levels, each in zip(certified, z, strict=True):
        rolling = [rolling_mean(rows, window) for rows, n in zip(each, neutral, strict=True) if n]
        peaks = np.array([rows.max(axis=0) for rows in rolling if len(rows)])
        reached = np.quantile(peaks, 1 - FALLBACK, axis=0)
        by_file.append(np.where(both, np.array(levels, float), reached))
    return by_file[0], by_file[1]


def _invariance(
    speaker: Speaker, exact: Speaker, guard: Guard, texts: Sequence[Texts]
) -> Invariance:
    some = [text for each in texts for text in list(each.texts)[: TOGETHER // len(texts)]]
    together = batch_difference(speaker.door, some, guard.probe.layers)
    for each in (speaker, exact):
        padding = padding_difference(each, guard, some[:8])
        if padding is not None:
            return Invariance(together, padding, (_wanted(speaker)[0], _wanted(each)[1]))
    return Invariance(together, None, _wanted(speaker))


def _wanted(speaker: Speaker) -> tuple[float, float]:
    half = speaker.door.identity.quantisation in ("bfloat16", "float16")
    return HALF if half else (TOLERANCE, TOLERANCE)


def _spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` of `count` numbers, evenly spread."""
    return sorted({int(n) for n in np.linspace(0, count - 1, min(count, wanted))})
