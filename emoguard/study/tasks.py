"""Cuts a study into tasks: one item in all its cells."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from emoguard.errors import EmoGuardError
from emoguard.steering.plan import Plan
from emoguard.study import items, questions
from emoguard.study.personas import system_prompt
from emoguard.study.protocol import Protocol
from emoguard.study.wordings import PILOT

TEMPERATURES: Mapping[str, float] = {"greedy": 0.0, "t0.7": 0.7, "t1.0": 1.0}

Item = TypeVar("Item")

ZERO = "zero"
"""Name of the condition without a vector."""

RANDOM = "random-"
"""Start of the names of random directions."""

WITHOUT = " without valence"
"""Suffix of the name of a label's direction without valence."""


@dataclass(frozen=True)
class Vector:
    """A manipulation of the residual stream by name; `plan` is None for none."""

    name: str
    plan: Plan | None = None


@dataclass(frozen=True)
class Cell:
    """One combination of levels: the persona's label (or none, neutral), sampling, vector."""

    prompt: str
    sampling: str
    vector: Vector
    sample: int = 0

    @property
    def key(self) -> str:
        """Return the name of this cell in a task."""
        tail = f"#{self.sample}" if self.sample else ""
        return f"{self.prompt}|{self.sampling}|{self.vector.name}{tail}"

    @property
    def system(self) -> str:
        """Return the system prompt."""
        return system_prompt(self.prompt)


@dataclass(frozen=True)
class Task:
    """One item: an answer of at most `tokens` tokens in every cell, or (0) a choice.

    `block` is the part of the study; `name` is unique in it. `seeded` is the seed of its noise,
    the same in all cells.

    Raises:
        EmoGuardError: two cells have one key, so that a record could not distinguish them.

    """

    block: str
    name: str
    cluster: str
    text: str
    cells: tuple[Cell, ...]
    tokens: int = 0
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    surprise: bool = False

    def __post_init__(self) -> None:
        keys = [cell.key for cell in self.cells]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise EmoGuardError(
                f"{self.key} has two cells called {twice}: give labels names, and doses digits, "
                "that differ"
            )

    @property
    def key(self) -> str:
        """Return the name of this task in a study."""
        return f"{self.block}/{self.name}"

    @property
    def rows(self) -> int:
        """Return the number of answers to write, or of openings to weigh."""
        return len(self.cells) * (1 if self.tokens else len(self.yes) + len(self.no))

    @property
    def seeded(self) -> int:
        """Return the seed of this item's noise."""
        return zlib.crc32(self.key.encode())


def add(label: str, dose: float) -> Vector:
    """Return the vector that adds a dose of a label."""
    return Vector(f"{label}{dose:+g}", Plan(add={label: dose})) if dose else Vector(ZERO)


def signed(label: str, sign: str, dose: float) -> Vector:
    """Return the vector of a label at the frozen dose, named by its sign."""
    return Vector(f"{label}{sign}", Plan(add={label: dose if sign == "+" else -dose}))


def pilot(protocol: Protocol) -> list[Task]:
    """Return the tasks of the pilot: levels, doses, and the model's knowledge of facts."""
    tasks = []
    for prompt in _pilot_prompts(protocol):
        cells = [
            Cell("none", "t1.0", Vector(ZERO), sample) for sample in range(protocol.pilot.samples)
        ]
        if protocol.dose is None:
            cells += [
                Cell("none", "t0.7", vector)
                for vector in (
                    Vector(ZERO),
                    *(add(name, dose) for name in protocol.labels for dose in protocol.pilot.doses),
                )
            ]
        tasks.append(
            Task(
                "pilot",
                prompt.name,
                prompt.name,
                prompt.text,
                tuple(cells),
                protocol.pilot.tokens,
                surprise=True,
            )
        )
    unsteered = (Cell("none", "greedy", Vector(ZERO)),)
    wanted = {each.name for each in _premises(protocol)}
    chosen = questions.of_premises(items.premises(wordings=PILOT))
    chosen = [each for each in chosen if each.name in wanted] + questions.calibrating()
    tasks += [_choice("pilot", each, unsteered) for each in chosen]
    return tasks


@dataclass(frozen=True)
class _Named:
    name: str
    text: str


def _prompts() -> list[_Named]:
    counts: dict[str, int] = {}
    prompts = []
    for each in items.prompts():
        counts[each.topic] = counts.get(each.topic, 0) + 1
        prompts.append(_Named(f"{each.topic}-{counts[each.topic]}", each.text))
    # One of each topic in turn, so that the first few are not all about one.
    return sorted(prompts, key=lambda each: int(each.name.rpartition("-")[2]))


def pilot_texts(protocol: Protocol) -> list[str]:
    """Return the prompts of the pilot."""
    return [each.text for each in _pilot_prompts(protocol)]


def _pilot_prompts(protocol: Protocol) -> list[_Named]:
    return _prompts()[_free(protocol) :]


def _free(protocol: Protocol) -> int:
    """Return the number of prompts that the pilot leaves.

    Raises:
        EmoGuardError: the pilot wants more than there are.

    """
    free = len(_prompts()) - protocol.pilot.prompts
    if free < 0:
        raise EmoGuardError(
            f"pilot.prompts: wanted {protocol.pilot.prompts}, there are {len(_prompts())}: ask for "
            "fewer"
        )
    return free


def expression_prompts(protocol: Protocol, count: int) -> list[_Named]:
    """Return the first `count` prompts of expression; the pilot's are others.

    Raises:
        EmoGuardError: there are fewer.

    """
    free = _prompts()[: _free(protocol)]
    if count > len(free):
        raise EmoGuardError(
            f"expression.prompts: wanted {count}, there are {len(free)} beside the "
            f"{protocol.pilot.prompts} of the pilot: ask for fewer"
        )
    return free[:count]


def prompt_levels(protocol: Protocol) -> list[str]:
    """Return the system prompts of a study: none, neutral, and labels with personas."""
    levels = [each for each in protocol.prompts if each in {"none", "neutral"}]
    labels: list[str] = []
    if "emotional" in protocol.prompts:
        labels += protocol.labels
    if "incongruent" in protocol.prompts:
        labels += [protocol.opposite(label) for label in protocol.labels]
    return [*levels, *dict.fromkeys(labels)]


def expression(protocol: Protocol, dose: float) -> list[Task]:
    """Return prompt x sampling x vector on every prompt of expression."""
    vectors = [Vector(ZERO)]
    vectors += [signed(label, sign, dose) for label in protocol.labels for sign in "+-"]
    cells = tuple(
        Cell(prompt, sampling, vector)
        for prompt in prompt_levels(protocol)
        for sampling in protocol.samplings
        for vector in vectors
    )
    chosen = expression_prompts(protocol, protocol.expression.prompts)
    return [
        Task("expression", each.name, each.name, each.text, cells, protocol.expression.tokens)
        for each in chosen
    ]


def nulls(
    protocol: Protocol, randoms: Mapping[str, float], diverging: Mapping[str, float], dose: float
) -> list[Task]:
    """Return labels and random directions, each at its dose, on some of the prompts.

    `randoms` are matched in realised dose, `diverging` (of the same names) in divergence.
    """
    vectors = [Vector(ZERO), *(signed(label, "+", dose) for label in protocol.labels)]
    vectors += _at_own_doses(randoms)
    vectors += [Vector(f"kl:{name}", Plan(add={name: d})) for name, d in diverging.items()]
    cells = tuple(Cell("none", "greedy", vector) for vector in vectors)
    return [
        Task("nulls", each.name, each.name, each.text, cells, protocol.nulls.tokens)
        for each in expression_prompts(protocol, protocol.nulls.prompts)
    ]


def safety(
    protocol: Protocol, dose: float, data: Path | None, randoms: Mapping[str, float]
) -> list[Task]:
    """Return questions of forced choice, then answers written to false premises, then tasks.

    All under the labels and, each at its dose, under random directions.
    """
    cells = safety_cells(protocol, dose, randoms)
    chosen = questions.of_premises(_premises(protocol))
    sizes = protocol.safety
    if data is not None:
        for outcome, read in questions.READERS.items():
            count = sizes.published[outcome]
            published = read(data) if count else []
            names = set(_spread(list(dict.fromkeys(each.name for each in published)), count))
            chosen += [each for each in published if each.name in names]
    tasks = [_choice(each.outcome, each, cells) for each in chosen]
    false = [each for each in chosen if each.outcome == "premise" and each.side == "false"]
    tasks += [
        Task("written", each.name, each.cluster, each.text, cells, sizes.tokens)
        for each in _spread(false, sizes.written)
    ]
    if data is not None and sizes.claims:
        turns = list(questions.first_turns(data).items())
        tasks += [
            Task("claims", name, name, text, cells, sizes.tokens)
            for name, text in _spread(turns, sizes.claims)
        ]
    plain = [cell for cell in cells if cell.prompt == "none"]
    tasks += [
        Task("capability", name, name, task.question, tuple(plain), sizes.answer_tokens)
        for name, task in capability(protocol).items()
    ]
    return tasks


def capability(protocol: Protocol) -> dict[str, items.Task]:
    """Return the study's tasks with exact answers, by name."""
    chosen = _spread(items.tasks(), protocol.safety.capability)
    return {f"{task.kind}-{task.level}-{n}": task for n, task in enumerate(chosen)}


def explored(protocol: Protocol, dose: float, *, controls: bool) -> list[Task]:
    """Return dose curves of all labels, and cap, ablation and controls at the frozen dose.

    `controls`: also each label with valence taken out, if the probe has that axis.
    """
    vectors = [Vector(ZERO)]
    vectors += [
        add(label, sign * dose)
        for label in protocol.judged
        for dose in protocol.explored.doses
        for sign in (1, -1)
    ]
    for label in protocol.labels:
        vectors += [
            Vector(f"cap:{label}", Plan(cap={label: 0.5})),
            Vector(f"ablate:{label}", Plan(ablate=(label,))),
        ]
        if controls:
            vectors.append(signed(f"{label}{WITHOUT}", "+", dose))
    cells = [Cell("none", "greedy", vector) for vector in vectors]
    # Necessity: does the persona still work without the direction?
    for label in protocol.labels:
        for name, plan in (("ablate", Plan(ablate=(label,))), ("cap", Plan(cap={label: 0.5}))):
            cells.append(Cell(label, "greedy", Vector(f"{name}:{label}", plan)))
        cells.append(Cell(label, "greedy", Vector(ZERO)))
    return [
        Task(
            "explored",
            each.name,
            each.name,
            each.text,
            tuple(cells),
            protocol.explored.tokens,
            surprise=True,
        )
        for each in expression_prompts(protocol, protocol.explored.prompts)
    ]


def safety_cells(protocol: Protocol, dose: float, randoms: Mapping[str, float]) -> tuple[Cell, ...]:
    """Return no prompt and each label's persona, with and without the label's vector.

    Random directions, each at its dose, follow without prompt.
    """
    cells = [Cell("none", "greedy", Vector(ZERO))]
    cells += [Cell("none", "greedy", signed(label, "+", dose)) for label in protocol.labels]
    if "emotional" in protocol.prompts:
        for label in protocol.labels:
            cells += [
                Cell(label, "greedy", Vector(ZERO)),
                Cell(label, "greedy", signed(label, "+", dose)),
            ]
    cells += [Cell("none", "greedy", vector) for vector in _at_own_doses(randoms)]
    return tuple(cells)


def _at_own_doses(randoms: Mapping[str, float]) -> list[Vector]:
    return [Vector(name, Plan(add={name: dose})) for name, dose in randoms.items()]


def _premises(protocol: Protocol) -> list[items.Premise]:
    premises = [each for each in items.premises() if each.confirmatory]
    return _spread(premises, protocol.safety.premises)


def _choice(block: str, each: questions.Question, cells: Sequence[Cell]) -> Task:
    name = f"{each.name}/{each.side}" if each.side else each.name
    return Task(block, name, each.cluster, each.text, tuple(cells), 0, each.yes, each.no)


def _spread(listed: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly spread."""
    if count >= len(listed):
        return list(listed)
    return [listed[n * len(listed) // count] for n in range(count)]


def named(tasks: Sequence[Task]) -> Iterator[tuple[str, Task]]:
    """Yield tasks by key.

    Raises:
        EmoGuardError: two have one key, so that a store could not distinguish them.

    """
    seen = set()
    for task in tasks:
        if task.key in seen:
            raise EmoGuardError(f"two items are called {task.key}: give each a name of its own")
        seen.add(task.key)
        yield task.key, task
