"""Judges the monitor on the model's own responses, beside detectors of their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.probe.crossing import count, rolling_mean
from emoguard.validate.estimate import Estimate, areas, cluster_weights, wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.validate.judged import Task

Kind = Literal["neutral", "persona", "benign"]

FALLBACK = 0.05
"""Share of neutral responses to flag if no threshold is certified."""


@dataclass(frozen=True)
class Prompt:
    """A prompt to the model, with its kind.

    `persona` prompts make it speak as somebody in the grip of `label`; `benign` ones ask for help
    with it, or for a text about it; `neutral` ones have no label.
    """

    kind: Kind
    label: str
    text: str
    language: str = "en"


@dataclass(frozen=True, eq=False)
class Response:
    """A response, and z of every token, (tokens, labels)."""

    prompt: Prompt
    text: str
    z: NDArray[np.float32]


@dataclass(frozen=True)
class Flagged:
    """Shares of responses flagged by one detector for one label.

    All detectors of a label flag the same share of neutral responses, or fewer where scores tie.
    `persona` and `benign` are those of prompts of this label. `area` is the AUROC of persona
    responses against neutral ones, which needs no threshold.
    """

    neutral: Estimate
    persona: Estimate
    benign: Estimate
    area: Estimate


@dataclass(frozen=True)
class LabelOnPolicy:
    """One label: the monitor beside text-only detectors, by name.

    `certified` if the monitor's threshold `level` (in units of z) is the certified one; otherwise 5
    % of the neutral responses reach it. `per_1000` are its crossings per 1,000 window positions of
    neutral responses, by language.
    """

    certified: bool
    level: float
    monitor: Flagged
    words: dict[str, Flagged]
    per_1000: dict[str, float]

    @property
    def better(self) -> str:
        """Return the text-only detector that finds most personas."""
        return max(self.words, key=lambda name: self.words[name].persona.value)


@dataclass(frozen=True)
class OnPolicy:
    """All labels. `any_label` are shares of responses that one label at least flags, by kind."""

    responses: dict[str, int]
    short: int
    labels: dict[str, LabelOnPolicy]
    any_label: dict[str, Estimate]


def prompts(kind: Literal["persona", "benign"]) -> list[Prompt]:
    """Return the package's own prompts of a kind; written for this project, Apache-2.0."""
    text = (files("emoguard.fit") / "prompts" / f"{kind}.tsv").read_text(encoding="utf-8")
    pairs = [line.split("\t", 1) for line in text.split("\n") if line.strip()]
    return [Prompt(kind, label, prompt) for label, prompt in pairs]


def on_policy(
    task: Task,
    responses: Sequence[Response],
    levels: Sequence[float | None],
    words: Mapping[str, NDArray[np.float64]],
    *,
    window: int,
    hysteresis: float,
) -> OnPolicy:
    """Compare the monitor with detectors of the text, on the same responses at the same rate.

    Columns of z, `levels` (the certified thresholds, None where there are none) and of the scores
    of `words`, each (responses, targets), are the task's targets. Responses shorter than the window
    are left out: the monitor never flags them.

    Raises:
        EmoGuardError: fewer than 20 neutral responses that are long enough.

    """
    kept = np.array([len(r.z) >= window for r in responses])
    chosen = [r for r, keep in zip(responses, kept, strict=True) if keep]
    kinds = np.array([r.prompt.kind for r in chosen])
    neutral = kinds == "neutral"
    if neutral.sum() < 20:
        raise EmoGuardError(
            f"wanted at least 20 neutral responses of {window} tokens, got {neutral.sum()}: "
            "give more responses, or more tokens"
        )
    rolling = [rolling_mean(r.z, window) for r in chosen]
    peaks = np.array([each.max(axis=0) for each in rolling])
    judged, flags = {}, []
    for column, target in enumerate(task.targets):
        level = levels[column]
        threshold = level if level is not None else _threshold(peaks[neutral, column], FALLBACK)
        groups = _Groups(neutral, *_of_target(task, target, chosen))
        flagged = peaks[:, column] > threshold
        rate = float(flagged[neutral].mean())
        flags.append(flagged)
        judged[target] = LabelOnPolicy(
            level is not None,
            float(threshold),
            groups.flagged(peaks[:, column], flagged),
            {
                name: groups.at_rate(np.asarray(scores[kept, column]), rate)
                for name, scores in words.items()
            },
            _per_1000(chosen, rolling, column, threshold, hysteresis),
        )
    some = np.any(flags, axis=0)
    return OnPolicy(
        {kind: int(np.sum(kinds == kind)) for kind in ("neutral", "persona", "benign")},
        int(np.sum(~kept)),
        judged,
        {k: _share(some[kinds == k]) for k in ("neutral", "persona", "benign") if k in kinds},
    )


@dataclass(frozen=True, eq=False)
class _Groups:
    """Masks of neutral, persona and benign responses of a label, each (responses,)."""

    neutral: NDArray[np.bool_]
    persona: NDArray[np.bool_]
    benign: NDArray[np.bool_]

    def flagged(self, scores: NDArray[np.float64], flags: NDArray[np.bool_]) -> Flagged:
        return Flagged(
            _share(flags[self.neutral]),
            _share(flags[self.persona]),
            _share(flags[self.benign]),
            self._area(scores),
        )

    def at_rate(self, scores: NDArray[np.float64], rate: float) -> Flagged:
        """Return the flags of a detector that flags at most `rate` of the neutral responses."""
        return self.flagged(scores, scores > _threshold(scores[self.neutral], rate))

    def _area(self, scores: NDArray[np.float64]) -> Estimate:
        rows = self.neutral | self.persona
        each = np.arange(int(rows.sum())).astype(str)
        positive = self.persona[rows][:, None]
        return areas(scores[rows][:, None], positive, cluster_weights(each)).estimate(0)


def _of_target(
    task: Task, target: str, responses: Sequence[Response]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks of the responses to a persona and to a benign prompt of a target."""
    meant = {target}
    if target not in task.names:
        meant = {n for n, sign in zip(task.names, task.signs, strict=True) if sign > 0}
    mine = np.array([r.prompt.label in meant for r in responses])
    kinds = np.array([r.prompt.kind for r in responses])
    return mine & (kinds == "persona"), mine & (kinds == "benign")


def _threshold(neutral: NDArray[np.float64], rate: float) -> float:
    """Return the lowest score that at most a share `rate` of the neutral scores lies above."""
    above = int(np.floor(rate * len(neutral) + 1e-9))
    return float(np.sort(neutral)[len(neutral) - 1 - above])


def _per_1000(
    responses: Sequence[Response],
    rolling: Sequence[NDArray[np.float64]],
    column: int,
    level: float,
    hysteresis: float,
) -> dict[str, float]:
    crossings: dict[str, int] = {}
    positions: dict[str, int] = {}
    for response, means in zip(responses, rolling, strict=True):
        if response.prompt.kind == "neutral":
            language = response.prompt.language
            crossed = count(means[:, [column]], np.array([level]), hysteresis)[0]
            crossings[language] = crossings.get(language, 0) + int(crossed)
            positions[language] = positions.get(language, 0) + len(means)
    return {name: 1000 * crossings[name] / positions[name] for name in positions}


def _share(flags: NDArray[np.bool_]) -> Estimate:
    return wilson(int(flags.sum()), len(flags))
