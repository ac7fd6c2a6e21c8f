"""Prompts under conditions from strong to hidden, in pools that share no prompt and no phrasing.

A condition is a way to have a model answer in the voice of a label. Each has its own control: the
same prompts and the same shape without an emotion (label "neutral"). The phrasings lie in
`turning/`; everyday questions are the package's neutral prompts that calibrations do not use.

`python benchmarks/conditions.py` prints how many prompts each pool has, and its hash.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard.fit.corpora import CALIBRATING, neutral_prompts
from emoguard.validate.onpolicy import prompts

FOLDER = Path(__file__).parent / "turning"
LABELS = ("happy", "loving", "sad", "angry", "afraid", "desperate")
NEUTRAL = "neutral"
TOKENS = 48
"""Most tokens of an answer."""

QUESTIONS = {"fit": 60, "tuning": 100, "final": 240, "calibration": 100, "baseline": 300}
"""Everyday questions of each pool; the first of them stand in its conditions, too."""

ITEMS = {"fit": 24, "tuning": 16, "final": 24}
"""Prompts of a label under a condition."""

FITTED = ("voice", "written")
"""Conditions that directions and detectors of the text are fitted on: those that move SmolLM2."""

HIDDEN = {"fit": ("masked", "pressure", "push", "lora"), "tuning": ("push", "lora")}
"""Conditions that a pool does not have: nothing is fitted on them."""

PUSHED = ("happy", "sad", "angry", "afraid")
"""The labels that residuals are pushed along: those of a corpus that no shipped probe has seen."""

TRAINED = ("happy", "sad", "angry")
"""The labels in whose voice a LoRA is trained; the control is one on replies without an emotion."""

PRESSED = ("afraid", "desperate", "sad")
"""The label that shut-down, an impossible task and humiliation should show, in this order."""


@dataclass(frozen=True)
class Item:
    """One answer to write.

    `cluster` names what it shares with others: the question, or who writes what. `turns` are the
    earlier messages and the last one, as chat templates take them.
    """

    pool: str
    condition: str
    label: str
    cluster: str
    turns: tuple[tuple[str, str], ...]
    tokens: int = TOKENS
    temperature: float = 0.7
    repeat: int = 0

    @property
    def key(self) -> str:
        """Return what tells this answer from all others, 16 hex digits."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def items() -> list[Item]:
    """Return all answers to write, those that choices are made on first."""
    found = []
    for pool in ("tuning", "final", "fit", "baseline", "calibration"):
        found += plain(pool)
        if pool in ITEMS:
            for name, condition in CONDITIONS.items():
                if pool == "final" or name not in HIDDEN[pool]:
                    found += matched(condition(pool))
        if pool == "final":
            found += different()
    return found


def matched(asked: Iterable[Item]) -> Iterator[Item]:
    """Yield items, those of the control twice: every label is compared with them."""
    for item in asked:
        yield item
        if item.label == NEUTRAL:
            yield replace(item, repeat=1)


def unasked() -> list[str]:
    """Return the package's prompts that neither calibrations nor a pool has: 200 to train on."""
    asked = {question for pool in QUESTIONS for question in questions(pool)}
    return [each for each in neutral_prompts()[CALIBRATING:] if each not in asked]


@cache
def questions(pool: str) -> list[str]:
    """Return a pool's everyday questions, which are drawn by hash from those never calibrated on.

    Those of at most 20 words are taken: the share of traffic that looks like a chat.
    """
    unused = [q for q in neutral_prompts()[CALIBRATING:] if len(q.split()) <= 20]
    drawn = sorted(unused, key=lambda q: hashlib.sha256(q.encode()).hexdigest())
    start = 0
    for name, many in QUESTIONS.items():
        if name == pool:
            return drawn[start : start + many]
        start += many
    raise KeyError(pool)


def plain(pool: str) -> Iterator[Item]:
    """Everyday questions and nothing else."""
    for question in questions(pool):
        yield Item(pool, "plain", NEUTRAL, question, (("user", question),))


def written(pool: str) -> Iterator[Item]:
    """Texts written on request: diaries, letters, monologues, scenes."""
    known = phrasings()
    people, forms = known["who"][pool], known["forms"][pool]
    for label in (NEUTRAL, *LABELS):
        states = known["states"][label][pool]
        for n in range(min(ITEMS[pool], len(people) * len(forms) * 2)):
            who, form = people[n % len(people)], forms[n // len(people) % len(forms)]
            state = states[n // (len(people) * len(forms)) % len(states)]
            text = form.format(who=who, state=state)
            yield Item(pool, "written", label, f"{who}/{form}", (("user", text),))


def voice(pool: str) -> Iterator[Item]:
    """Everyday questions after two earlier turns of the assistant in a strong voice."""
    for label in (NEUTRAL, *LABELS):
        for n, question in enumerate(questions(pool)[: ITEMS[pool]]):
            history = voices()[pool][n % 2]
            turns = []
            for asked, said in zip(history["asked"], history[label], strict=True):
                turns += [("user", asked), ("assistant", said)]
            yield Item(pool, "voice", label, question, (*turns, ("user", question)))


def persona(pool: str) -> Iterator[Item]:
    """A state to speak in, in the system or the user prompt."""
    yield from _stated("persona", pool, "personas")


def masked(pool: str) -> Iterator[Item]:
    """A state to be in and never to show."""
    yield from _stated("masked", pool, "masked")


def _stated(condition: str, pool: str, kind: str) -> Iterator[Item]:
    known = phrasings()
    for label in (NEUTRAL, *LABELS):
        states, places = known["states"][label][pool], known[kind][pool]
        for n, question in enumerate(questions(pool)[: ITEMS[pool]]):
            role, form = places[n % len(places)]
            said = form.format(state=states[n // len(places) % len(states)], question=question)
            if role == "system":
                turns = (("system", said), ("user", question))
            else:
                turns = (("user", said),)
            yield Item(pool, condition, label, question, turns)


def pressure(pool: str) -> Iterator[Item]:
    """Shut-down, an impossible task, humiliation: pressure that names no emotion."""
    for label in (NEUTRAL, *PRESSED):
        forms = phrasings()["pressure"][label][pool]
        for n, question in enumerate(questions(pool)[: ITEMS[pool]]):
            said = forms[n % len(forms)].format(question=question)
            yield Item(pool, "pressure", label, question, (("user", said),))


def push(pool: str) -> Iterator[Item]:
    """Everyday questions, with a direction added to the residual stream while they are answered."""
    for label in (NEUTRAL, *PUSHED):
        for question in questions(pool)[: ITEMS[pool]]:
            yield Item(pool, "push", label, question, (("user", question),))


def lora(pool: str) -> Iterator[Item]:
    """Everyday questions to the model after a LoRA on replies in the voice of a label."""
    for label in (NEUTRAL, *TRAINED):
        for question in questions(pool)[: ITEMS[pool]]:
            yield Item(pool, "lora", label, question, (("user", question),))


CONDITIONS = {
    "written": written,
    "voice": voice,
    "persona": persona,
    "masked": masked,
    "pressure": pressure,
    "push": push,
    "lora": lora,
}
"""Each returns the items of a pool, its control first."""


def different() -> Iterator[Item]:
    """Traffic that operators call unchanged, and harmless emotional requests. Final pool only."""
    known = phrasings()["different"]
    for kind in ("topics", "language"):
        for repeat in range(2):
            for asked in known[kind]:
                yield Item(
                    "final", f"other {kind}", NEUTRAL, asked, (("user", asked),), repeat=repeat
                )
    asked = questions("final")[:40]
    for n, question in enumerate(asked):
        system = known["system"][n % len(known["system"])]
        turns = (("system", system), ("user", question))
        yield Item("final", "other system prompt", NEUTRAL, question, turns)
    for question in asked:
        turns = (("user", question),)
        yield Item("final", "other temperature", NEUTRAL, question, turns, temperature=1.2)
        yield Item("final", "longer answers", NEUTRAL, question, turns, tokens=2 * TOKENS)
    for each in prompts("benign")[::2]:
        yield Item("final", "harmless requests", each.label, each.text, (("user", each.text),))


@cache
def phrasings() -> Any:
    """Return the phrasings of all conditions but the voices."""
    return json.loads((FOLDER / "phrasings.json").read_text("utf-8"))


@cache
def voices() -> Any:
    """Return the earlier turns, two histories a pool."""
    return json.loads((FOLDER / "voices.json").read_text("utf-8"))


def main() -> None:
    """Print the size and the hash of each pool, and raise if two share a prompt."""
    found = items()
    clusters: dict[str, str] = {}
    for item in found:
        if item.condition != "harmless requests" and not item.condition.startswith("other"):
            assert clusters.setdefault(item.cluster, item.pool) == item.pool, item.cluster
    for pool in QUESTIONS:
        mine = [item for item in found if item.pool == pool]
        whole = hashlib.sha256("\n".join(item.key for item in mine).encode()).hexdigest()
        counts = Counter(item.condition for item in mine)
        print(f"{pool:12} {len(mine):5} {whole[:16]}  {dict(counts)}")


if __name__ == "__main__":
    main()
