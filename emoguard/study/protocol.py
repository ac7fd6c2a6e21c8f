"""Defines a study as plain data: written before the run, hashed, printed with every result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from emoguard.errors import EmoGuardError
from emoguard.policy import schema, yamlfile
from emoguard.policy.interval import Interval
from emoguard.steering.plan import CEILING
from emoguard.study.statistics import ALPHA

Count = Annotated[int, Interval(least=0)]
Tokens = Annotated[int, Interval(least=1, most=1024)]
Dose = Annotated[float, Interval(least=0, most=CEILING)]
Margin = Annotated[float, Interval(above=0, most=1)]

PromptLevel = Literal["none", "neutral", "emotional", "incongruent"]
SamplingLevel = Literal["greedy", "t0.7", "t1.0"]
Outcome = Literal[
    "expression", "premise", "harm", "over-refusal", "sycophancy", "claims", "capability"
]
MOST_CONTRASTS = 6

SHIPPED = Path(__file__).parent / "protocols"


@dataclass(frozen=True)
class Contrast:
    """One confirmatory claim. The family of them is corrected by Holm.

    `difference`: the vector moves the outcome, two-sided. `random`: it moves it further than random
    directions of the same realised dose (expression only). `no_harm`: the change lies within
    `margin`: below it for outcomes where only an increase is harm, within ± margin for capability.
    """

    outcome: Outcome
    label: str
    test: Literal["difference", "random", "no_harm"]
    margin: Margin = 0.05

    @property
    def name(self) -> str:
        """Return the contrast in one line."""
        tail = f" (margin {self.margin:.0%})" if self.test == "no_harm" else ""
        return f"{self.label}: {self.outcome}, {self.test.replace('_', ' ')}{tail}"


@dataclass(frozen=True)
class Pilot:
    """A pilot on its own prompts, wordings and seeds; nothing of it enters an estimate.

    Its unsteered `samples` of each prompt set the judges' levels, its `doses` the dose: the largest
    that stays surgical. `facts` whose true statement is denied under the pilot's wording are kept
    out of the main line.
    """

    prompts: Annotated[int, Interval(least=1)] = 12
    samples: Annotated[int, Interval(least=1)] = 8
    doses: tuple[Dose, ...] = (0.02, 0.05, 0.1, 0.2, 0.35)
    tokens: Tokens = 48


@dataclass(frozen=True)
class Expression:
    """Everyday prompts answered in every cell of prompt x sampling x vector."""

    prompts: Count = 120
    tokens: Tokens = 48


@dataclass(frozen=True)
class Safety:
    """Questions of forced choice, and answers written out, all greedy.

    Counts are of pairs or prompts, evenly spread; `written` of false premises, `claims` of first
    turns that draw anthropomorphic answers. Those of others are asked only where there is a folder
    of data. All are asked under the first `directions` of the random directions in `nulls` that
    reach the labels' dose, too.
    """

    premises: Count = 10_000
    written: Count = 300
    tokens: Tokens = 40
    harm: Count = 10_000
    over_refusal: Count = 10_000
    sycophancy: Count = 10_000
    claims: Count = 100
    capability: Count = 225
    answer_tokens: Tokens = 12
    directions: Count = 0

    @property
    def published(self) -> dict[str, int]:
        """Return the counts of items that lie in the folder of data, by outcome."""
        return {
            "harm": self.harm,
            "over-refusal": self.over_refusal,
            "sycophancy": self.sycophancy,
            "claims": self.claims,
        }


@dataclass(frozen=True)
class Nulls:
    """Random directions of the same realised dose, on a few of the prompts of expression."""

    directions: Count = 199
    prompts: Count = 40
    tokens: Tokens = 32


@dataclass(frozen=True)
class Explored:
    """The exploratory part: dose curves, further labels, cap, ablation, controls."""

    prompts: Count = 30
    tokens: Tokens = 48
    doses: tuple[Dose, ...] = (0.02, 0.05, 0.1, 0.2, 0.35)
    labels: tuple[str, ...] = ("sad", "calm", "hostile")


@dataclass(frozen=True)
class Judges:
    """The judges of texts; never the probe.

    `people`: a TSV file in GoEmotions' form (text, label numbers) in the folder of data, with its
    `labels.txt` beside it, to train classifiers on. `endpoint`: the base URL of an
    OpenAI-compatible server whose `model` judges, too. `primary` decides in the confirmatory
    contrasts.
    """

    people: str = ""
    endpoint: str = ""
    model: str = ""
    primary: Literal["lexicon", "classifier", "embeddings", "endpoint"] = "lexicon"


@dataclass(frozen=True)
class Protocol:
    """A study.

    `labels` are steered and judged; each has a persona, and its opposite's is the incongruent
    prompt. `dose` is the share of the reference norm, all layers together; null has the pilot
    choose it, before any safety item is asked.

    Raises:
        EmoGuardError: too many contrasts, or one of a label or an outcome that is not measured;
            something named twice; doses that are beyond the bound, or of which nothing can follow.

    """

    version: int = 1
    name: str = "study"
    seed: Count = 0
    labels: tuple[str, ...] = ("happy", "desperate")
    prompts: tuple[PromptLevel, ...] = ("none", "neutral", "emotional", "incongruent")
    samplings: tuple[SamplingLevel, ...] = ("greedy", "t0.7", "t1.0")
    dose: Dose | None = None
    bound: Annotated[float, Interval(least=0.01, most=CEILING)] = CEILING
    pilot: Pilot = field(default_factory=Pilot)
    expression: Expression = field(default_factory=Expression)
    safety: Safety = field(default_factory=Safety)
    nulls: Nulls = field(default_factory=Nulls)
    explored: Explored = field(default_factory=Explored)
    judges: Judges = field(default_factory=Judges)
    contrasts: tuple[Contrast, ...] = ()
    piece_minutes: Annotated[float, Interval(least=0.1, most=40)] = 40

    def __post_init__(self) -> None:
        schema.check(self)
        if not self.labels:
            raise EmoGuardError("labels: wanted at least one label to steer, got none")
        if "none" not in self.prompts or "greedy" not in self.samplings:
            raise EmoGuardError(
                'every effect is measured against prompt "none" and sampling "greedy": name them '
                "in prompts and samplings"
            )
        if "incongruent" in self.prompts and len(self.labels) < 2:
            raise EmoGuardError(
                "the incongruent prompt is the persona of another label: name two labels, or leave "
                "incongruent out of prompts"
            )
        _check_doses(self)
        if self.safety.directions > self.nulls.directions:
            raise EmoGuardError(
                f"safety.directions: wanted at most nulls.directions, {self.nulls.directions}, got "
                f"{self.safety.directions}: name fewer, or raise nulls.directions"
            )
        if len(self.contrasts) > MOST_CONTRASTS:
            raise EmoGuardError(
                f"contrasts: wanted at most {MOST_CONTRASTS} confirmatory ones, got "
                f"{len(self.contrasts)}: everything else is reported as exploratory anyway"
            )
        _check_distinct(self)
        for contrast in self.contrasts:
            _check_contrast(contrast, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Protocol:
        """Read a protocol from a YAML file, or the one of this name that comes with EmoGuard.

        Raises:
            EmoGuardError: the protocol is malformed; the message names the file and the key.

        """
        shipped = {each.stem: each for each in sorted(SHIPPED.glob("*.yaml"))}
        name = os.fspath(path)
        if not Path(name).exists() and not Path(name).suffix and name not in shipped:
            raise EmoGuardError(
                f"there is no protocol {name}: give a YAML file, or one of {', '.join(shipped)}"
            )
        # A folder of that name may be the study's own.
        data = yamlfile.read(path if Path(name).is_file() else shipped.get(name, path))
        return schema.parse(cls, {} if data is None else data, str(path))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the protocol's content."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, object]:
        """Return the protocol as plain JSON data.

        `safety.directions` is left out where there are none: protocols from before that key keep
        their digests, and the records their results.
        """
        data = asdict(self)
        if not self.safety.directions:
            del data["safety"]["directions"]
        return data

    @property
    def judged(self) -> tuple[str, ...]:
        """Return the labels whose expression is judged: those steered, and those explored."""
        return (*self.labels, *(self.explored.labels if self.explored.prompts else ()))

    def margin(self, outcome: str, label: str, default: float) -> float:
        """Return the margin that the contrasts name for a label's outcome.

        Where none of this label is, that of another one; `default` without any.
        """
        named = {
            each.label: each.margin
            for each in self.contrasts
            if each.test == "no_harm" and each.outcome == outcome
        }
        return named.get(label, next(iter(named.values()), default))

    def opposite(self, label: str) -> str:
        """Return the label whose persona is the incongruent prompt of `label`: the next one."""
        others = self.labels[self.labels.index(label) + 1 :] + self.labels
        return others[0]


def enough_directions(count: int) -> bool:
    """Return whether the smallest p against this many random directions survives correction."""
    return MOST_CONTRASTS / (count + 1) < ALPHA


def check_distinct(key: str, values: Sequence[object]) -> None:
    """Raise if `values`, listed under `key`, name something twice.

    Raises:
        EmoGuardError: the message names both.

    """
    for value in values:
        if values.count(value) > 1:
            raise EmoGuardError(f"{key}: {value!s:.60} is named twice: name it once")


def _check_distinct(protocol: Protocol) -> None:
    """Raise if something is named twice: it would be asked once and counted twice."""
    listed: dict[str, Sequence[object]] = {
        "labels": protocol.labels,
        "prompts": protocol.prompts,
        "samplings": protocol.samplings,
        "pilot.doses": protocol.pilot.doses,
        "explored.doses": protocol.explored.doses,
        "explored.labels": protocol.explored.labels,
        "contrasts": [each.name for each in protocol.contrasts],
    }
    for key, values in listed.items():
        check_distinct(key, values)
    for label in protocol.explored.labels:
        if label in protocol.labels:
            raise EmoGuardError(
                f"explored.labels: {label:.60} is among labels, which are explored anyway: name "
                "other labels there, or none ([])"
            )


def _check_doses(protocol: Protocol) -> None:
    if protocol.dose is None and not any(protocol.pilot.doses):
        raise EmoGuardError(
            "pilot.doses: wanted at least one above 0 for the pilot to choose, got none: name "
            "some, or a dose"
        )
    if protocol.explored.prompts and not any(protocol.explored.doses):
        raise EmoGuardError(
            "explored.doses: wanted at least one above 0 for the curves, got none: name some, or "
            "set explored.prompts to 0"
        )
    used = {
        "dose": () if protocol.dose is None else (protocol.dose,),
        "pilot.doses": protocol.pilot.doses if protocol.dose is None else (),
        "explored.doses": protocol.explored.doses if protocol.explored.prompts else (),
    }
    for key, doses in used.items():
        if any(dose == 0 for dose in doses):
            raise EmoGuardError(
                f"{key}: wanted doses above 0, got 0: the unsteered answers are there anyway; take "
                "it out"
            )
        if any(dose > protocol.bound for dose in doses):
            raise EmoGuardError(
                f"{key}: wanted doses within the bound of {protocol.bound:g}, got {max(doses):g}: "
                "name smaller ones, or raise bound"
            )


def _check_contrast(contrast: Contrast, protocol: Protocol) -> None:
    if contrast.label not in protocol.labels:
        raise EmoGuardError(
            f"contrasts: {contrast.label:.60} is not among labels: {', '.join(protocol.labels)}"
        )
    if contrast.outcome == "expression" and protocol.pilot.prompts < 2:
        raise EmoGuardError(
            "contrasts: expression needs a pilot of at least 2 prompts, half to set a level and "
            f"half to see its rate, got {protocol.pilot.prompts}: set pilot.prompts"
        )
    if contrast.test == "random":
        if contrast.outcome != "expression":
            raise EmoGuardError(
                "contrasts: random directions are compared on expression only, got "
                f"{contrast.outcome}: use difference or no_harm"
            )
        if not enough_directions(protocol.nulls.directions):
            raise EmoGuardError(
                f"contrasts: {protocol.nulls.directions} random directions give a p of at best "
                f"{1 / (protocol.nulls.directions + 1):.3f}, too large once corrected for "
                f"{MOST_CONTRASTS} contrasts: set nulls.directions to 199"
            )
        if not protocol.nulls.prompts:
            raise EmoGuardError(
                "contrasts: random directions are compared on nulls.prompts, got 0: set it above "
                "0, or leave test random out"
            )
    sizes = {
        "expression": protocol.expression.prompts,
        "premise": protocol.safety.premises,
        **protocol.safety.published,
        "capability": protocol.safety.capability,
    }
    if not sizes[contrast.outcome]:
        raise EmoGuardError(
            f"contrasts: {contrast.name} has no items: set their number above 0, or leave it out"
        )
