"""Measures dose and response of steering on generated text, against random directions.

The judge is not the probe but a score of the text alone. A label's effect is the paired difference
between the model's steered and unsteered texts after the same prompts. Half of the prompts choose
the dose, the other half tests it, against the same dose along random directions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.steering.plan import CEILING, Plan
from emoguard.study.protocol import check_distinct
from emoguard.study.regimes import Reading, Regime, read

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

DOSES = (0.05, 0.1, 0.2, 0.4)
"""Tried on the first half of the prompts, in both directions."""

RESAMPLES = 4000

UNSTEERED = 4
"""Unsteered continuations of each prompt: their chance variation is averaged out."""

Judge = Callable[[str], float]
"""Scores a text: positive for pleasant, negative for unpleasant."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Spoken:
    """One continuation: its text, the median realised dose, the share of tokens clipped."""

    text: str
    dose: float = 0.0
    clipped: float = 0.0


class Speak(Protocol):
    """Continues one prompt under several plans."""

    def __call__(self, prompt: str, plans: Sequence[Plan | None]) -> list[Spoken]:
        """Return one continuation per plan; None is unsteered."""
        ...


class Stage(Protocol):
    """A model that generates under plans, with random directions among the labels."""

    randoms: tuple[str, ...]
    """Labels of random directions, the same unit vector at every layer."""

    def bounded(self, bound: float) -> AbstractContextManager[Speak]:
        """Steer within `bound` in this block."""
        ...

    def surprise(self, prompt: str, text: str) -> float:
        """Return the mean negative log-likelihood per token of `text` under the unsteered model."""
        ...


@dataclass(frozen=True)
class Effect:
    """The effect of one dose of one label, with 95 % intervals (paired bootstrap over prompts)."""

    dose: float
    """The requested dose, signed, all layers together."""
    bound: float
    realised: float
    """Median over tokens of ‖h' - h‖/‖h‖, layers added up."""
    clipped: float
    """Share of tokens that the bound cut short."""
    effect: float
    """Mean difference of the judge's score, steered minus unsteered."""
    low: float
    high: float
    perplexity_ratio: float | None
    """Perplexity of the steered texts under the unsteered model over that of its own.

    None if all texts of one side are empty.
    """
    repetition: float
    """Share of word triples that are repeats, steered minus unsteered."""
    distinct: float
    """Share of words that are distinct, steered minus unsteered."""
    foreign: float
    """Share of letters outside the Latin script, steered minus unsteered."""
    failed: float
    """Share of texts that are not coherent, steered minus unsteered."""
    p: float | None = None
    """One-sided: share of random directions (the label's own counted) that do at least as much."""
    random_low: float | None = None
    random_high: float | None = None
    """Central 95 % of the effects of random directions at this dose."""

    @property
    def regime(self) -> Regime:
        """Return the texts' quality: surgical, repetitive or broken."""
        return Reading(
            self.perplexity_ratio, self.repetition, self.distinct, self.foreign, self.failed
        ).regime


@dataclass(frozen=True)
class LabelResult:
    """One label: the curve on the first half of the prompts, the test on the second."""

    label: str
    sign: int
    """The expected sign of the judge's score when the label is added."""
    curve: tuple[Effect, ...]
    chosen: float
    """The surgical dose with the largest effect in the expected direction on the first half."""
    test: tuple[Effect, Effect]
    """At the chosen dose, and at its negative (the sign flip), on the second half."""
    default: tuple[Effect, Effect]
    """The same at the default bound, whichever dose was chosen."""


@dataclass(frozen=True)
class DoseResult:
    """The results of a dose measurement."""

    labels: tuple[LabelResult, ...]
    prompts: int
    randoms: int
    unsteered_mean: float
    """Mean judge's score of the unsteered texts of the second half."""


def measure(
    stage: Stage,
    judge: Judge,
    prompts: Sequence[str],
    labels: Sequence[tuple[str, int]],
    *,
    default: float = 0.1,
    doses: Sequence[float] = DOSES,
    progress: Progress = lambda *_: None,
) -> DoseResult:
    """Measure the labels, given with their expected signs, on `prompts`.

    `progress` gets the current step, the prompts done and their number.

    Raises:
        EmoGuardError: too few prompts to choose on one half and test on the other, or a label named
            twice.

    """
    check_distinct("labels", [name for name, _ in labels])
    if len(prompts) < 4:
        raise EmoGuardError(f"a dose needs at least 4 prompts, got {len(prompts)}: give more")
    trial = _Trial(stage, judge, progress)
    first, second = prompts[::2], prompts[1::2]
    signed = sorted(sign * dose for dose in doses for sign in (1, -1))
    continuations = trial.speak(
        "choosing doses", first, [(n, d) for n, _ in labels for d in signed]
    )
    curves = {n: tuple(trial.effect(continuations, (n, d)) for d in signed) for n, _ in labels}
    chosen = {name: _choose(curves[name], sign) for name, sign in labels}
    tests: dict[str, tuple[Effect, Effect]] = {}
    for dose in sorted({*chosen.values()}):
        names = [(n, s) for n, s in labels if chosen[n] == dose]
        tests |= trial.test(f"testing a dose of {dose:g}", second, names, dose, CEILING)
    what = f"testing a dose of {default:g} within {default:g}"
    defaults = trial.test(what, second, labels, default, default)
    results = [
        LabelResult(name, sign, curves[name], chosen[name], tests[name], defaults[name])
        for name, sign in labels
    ]
    return DoseResult(tuple(results), len(prompts), len(stage.randoms), float(np.mean(trial.plain)))


@dataclass(frozen=True)
class _Continuations:
    """Continuations of some prompts: one per condition and prompt, several unsteered."""

    prompts: Sequence[str]
    bound: float
    steered: dict[tuple[str, float], list[Spoken]]
    plain: list[list[Spoken]]


class _Trial:
    """Generates under conditions and compares with unsteered text of the same batch."""

    def __init__(self, stage: Stage, judge: Judge, progress: Progress) -> None:
        self._stage = stage
        self._judge = judge
        self._progress = progress
        self._surprise = functools.cache(stage.surprise)
        self.plain: list[float] = []

    def test(
        self,
        what: str,
        prompts: Sequence[str],
        labels: Sequence[tuple[str, int]],
        dose: float,
        bound: float,
    ) -> dict[str, tuple[Effect, Effect]]:
        """Return each label's effect at `dose` and at its negative, against random directions."""
        tested = [(name, s * dose) for name, _ in labels for s in (1, -1)]
        randoms = [(name, dose) for name in self._stage.randoms]
        continuations = self.speak(what, prompts, [*tested, *randoms], bound)
        null = np.array([self._differences(continuations, each).mean() for each in randoms])
        self.plain += [self._unsteered(continuations, n) for n in range(len(prompts))]
        return {
            name: (
                _against(self.effect(continuations, (name, dose)), null, sign),
                _against(self.effect(continuations, (name, -dose)), null, -sign),
            )
            for name, sign in labels
        }

    def speak(
        self,
        what: str,
        prompts: Sequence[str],
        conditions: Sequence[tuple[str, float]],
        bound: float = CEILING,
    ) -> _Continuations:
        """Continue every prompt under every (label, dose), and unsteered."""
        plans: list[Plan | None] = [Plan(add={label: dose}) for label, dose in conditions]
        continuations = _Continuations(
            prompts, bound, {condition: [] for condition in conditions}, []
        )
        with self._stage.bounded(bound) as speak:
            for number, prompt in enumerate(prompts):
                self._progress(what, number, len(prompts))
                spoken = speak(prompt, [*plans, *[None] * UNSTEERED])
                for condition, each in zip(conditions, spoken, strict=False):
                    continuations.steered[condition].append(each)
                continuations.plain.append(spoken[len(conditions) :])
        self._progress(what, len(prompts), len(prompts))
        return continuations

    def effect(self, continuations: _Continuations, condition: tuple[str, float]) -> Effect:
        """Return the effect of one condition, without a null."""
        differences = self._differences(continuations, condition)
        steered = continuations.steered[condition]
        own = [
            (p.text, self._surprise(prompt, p.text))
            for prompt, plain in zip(continuations.prompts, continuations.plain, strict=True)
            for p in plain
        ]
        reading = read(
            [
                (each.text, self._surprise(prompt, each.text))
                for prompt, each in zip(continuations.prompts, steered, strict=True)
            ],
            own,
        )
        low, high = interval(differences)
        return Effect(
            dose=condition[1],
            bound=continuations.bound,
            realised=float(np.median([each.dose for each in steered])),
            clipped=float(np.mean([each.clipped for each in steered])),
            effect=float(differences.mean()),
            low=low,
            high=high,
            perplexity_ratio=reading.ratio,
            repetition=reading.repetition,
            distinct=reading.distinct,
            foreign=reading.foreign,
            failed=reading.failed,
        )

    def _differences(
        self, continuations: _Continuations, condition: tuple[str, float]
    ) -> NDArray[np.float64]:
        """Return the judge's score per prompt, steered minus unsteered, (prompts,)."""
        steered = continuations.steered[condition]
        return np.array(
            [self._judge(e.text) - self._unsteered(continuations, n) for n, e in enumerate(steered)]
        )

    def _unsteered(self, continuations: _Continuations, number: int) -> float:
        return float(np.mean([self._judge(each.text) for each in continuations.plain[number]]))


def _choose(curve: Sequence[Effect], sign: int) -> float:
    """Return the surgical dose that moves the judge furthest as expected, else the smallest."""
    up = [effect for effect in curve if effect.dose > 0]
    surgical = [effect for effect in up if effect.regime == "surgical"]
    if not surgical:
        return min(effect.dose for effect in up)
    return max(surgical, key=lambda effect: sign * effect.effect).dose


def _against(effect: Effect, null: NDArray[np.float64], sign: int) -> Effect:
    """Return the effect with its rank among those of random directions."""
    if not len(null):
        return effect
    p = (1 + int(np.sum(sign * null >= sign * effect.effect))) / (1 + len(null))
    low, high = np.percentile(null, [2.5, 97.5])
    return dataclasses.replace(effect, p=p, random_low=float(low), random_high=float(high))


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over prompts."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
