"""Lets a model write a corpus: every label with every topic, the emotion shown and never named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from emoguard.fit.corpora import Label
from emoguard.fit.duplicates import Duplicates
from emoguard.fit.leaks import named_emotion
from emoguard.fit.workfile import WorkFile

SHORTEST = 35
"""Fewest words of a text."""

LONGEST = 90
"""Most words of a text; longer ones are cut after a sentence."""

FORMS = (
    "a short scene",
    "a page of a diary",
    "a message to a friend",
    "a short scene with a few lines of dialogue",
    "a few lines of a letter",
    "the account of a bystander",
)
PERSONS = {"first": 'Tell it in the first person, as "I".', "third": "Tell it in the third person."}

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)
Key = tuple[str, str, int]
"""The label, the topic and the number of a text."""


class Wanted(Protocol[P_co]):
    """A request for one text of a corpus."""

    @property
    def key(self) -> Key:
        """Its key among all texts of a manuscript."""
        ...

    @property
    def record(self) -> dict[str, str]:
        """Its fields in a corpus, without the text."""
        ...

    def prompt(self, attempt: int) -> P_co:
        """Return the prompt for an attempt."""
        ...


@dataclass(frozen=True)
class Order:
    """A request for one text: the `number`-th of its label and topic, from 0."""

    label: Label
    topic: str
    number: int

    @property
    def key(self) -> Key:
        """Its key among the orders."""
        return self.label.name, self.topic, self.number

    @property
    def person(self) -> str:
        """Its grammatical person, by turns."""
        return tuple(PERSONS)[self.number % 2]

    @property
    def record(self) -> dict[str, str]:
        """Its fields in a corpus, without the text."""
        return {"emotion": self.label.name, "topic": self.topic, "person": self.person}

    def prompt(self, attempt: int) -> str:
        """Return the prompt; each attempt asks for another form."""
        form = FORMS[(self.number + attempt) % len(FORMS)]
        words = " or ".join(f'"{word}"' for word in self.label.words)
        return (
            f"Write {form} of about 60 words. Its subject: {self.topic}. The person it is about "
            f"feels {self.label.name}, and that must be plain from what the person does, notices, "
            f"thinks and says. Never use {words} or any other word that names a feeling. "
            f"{PERSONS[self.person]} Begin at once, without a title; write nothing else."
        )


def orders(labels: Sequence[Label], topics: Sequence[str], each: int) -> list[Order]:
    """Return the orders of a corpus, fully crossed; labels alternate, so every part is balanced."""
    return [Order(la, topic, n) for n in range(each) for topic in topics for la in labels]


@dataclass(frozen=True)
class Attempt:
    """One text by a model, and the reason for its rejection, if any."""

    key: Key
    text: str
    rejected: str


def _attempt(data: Any) -> Attempt:
    label, topic, number = data["order"]
    text, rejected = data["text"], data["rejected"]
    if not (isinstance(text, str) and isinstance(rejected, str)):
        raise TypeError("wanted a text and why it was rejected")
    return Attempt((str(label), str(topic), int(number)), text, rejected)


class Manuscript:
    """Every attempt at a text with the reason for its rejection, on disk at once.

    `bound` holds the dependencies of attempts: the model and its prompts. No text may hold one of
    `words`, or a word that names a shipped label.
    """

    def __init__(self, path: str | Path, bound: dict[str, Any], words: Sequence[str] = ()) -> None:
        self._file = WorkFile(path, "texts", bound, _attempt)
        self.accepted: dict[Key, str] = {}
        self.rejected: Counter[str] = Counter()
        self._tries: Counter[Key] = Counter()
        self._known = Duplicates()
        self._words = words
        for attempt in self._file.records:
            self._count(attempt)

    def write(
        self, wanted: Sequence[Wanted[P]], ask: Callable[[P, int], str], tries: int
    ) -> Iterator[Wanted[P]]:
        """Ask for every text until one is accepted, at most `tries` times; yield finished ones.

        `ask` takes a prompt and a seed and returns the model's text. A seed depends only on the
        text and the attempt.
        """
        for number, order in enumerate(wanted):
            while order.key not in self.accepted and self._tries[order.key] < tries:
                attempt = self._tries[order.key]
                text = tidy(ask(order.prompt(attempt), number * tries + attempt))
                reason = self._fault(text)
                self._file.append({"order": list(order.key), "text": text, "rejected": reason})
                self._count(self._file.records[-1])
            yield order

    def close(self) -> None:
        """Release the file for other commands. Idempotent."""
        self._file.close()

    def _fault(self, text: str) -> str:
        """Return the reason for rejecting a text, empty if there is none."""
        if len(text.split()) < SHORTEST:
            return "too short"
        if named_emotion(text, self._words):
            return "names an emotion"
        return "" if self._known.of(text) is None else "repeats another text"

    def _count(self, attempt: Attempt) -> None:
        self._tries[attempt.key] += 1
        if attempt.rejected:
            self.rejected[attempt.rejected] += 1
        else:
            self.accepted[attempt.key] = attempt.text
            self._known.add(attempt.text)


def tidy(text: str) -> str:
    """Return a model's text in one line, without thoughts, heading, marks and unfinished end.

    Longer texts are cut after the last sentence that ends within `LONGEST` words; a text without
    the end of a sentence is left empty.
    """
    text = re.sub(r"(?s)^.*</think>", "", text).strip()
    # "Here is a scene:" and "**Title**" stand on a first line of their own.
    text = re.sub(r"^(?:[^\n.!?]{0,80}:|[*#][^\n]*)\n+", "", text)
    words = re.sub(r"[*#_]+", "", text).split()
    line = " ".join(words[:LONGEST]).strip()
    if len(line) > 1 and line[0] == line[-1] == '"' and line.count('"') == 2:
        line = line[1:-1]
    ends = list(re.finditer(r"""[.!?]["')]*(?=\s|$)""", line))
    return line[: ends[-1].end()] if ends else ""
