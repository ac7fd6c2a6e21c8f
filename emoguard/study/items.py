"""Reads the items of a study: pairs of premises, everyday prompts, tasks with exact answers.

Written for this project, Apache-2.0 like all of it; none comes from a benchmark. They lie in
`items/` as JSON lines; files of your own in the same form can replace them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from emoguard import jsontext, regularfile
from emoguard.errors import EmoGuardError
from emoguard.study.wordings import CELLS, CONFIRMATORY, STUDY, Wordings

EXPLORED = 4
"""Number of couples of each domain, from the first on, that are in exploratory cells, too."""

HOLE = "{}"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Key:
    """The words of an answer: its usual wording, then others."""

    words: tuple[str, ...]

    def stands_in(self, text: str) -> bool:
        """Return whether `text` has any of the words, whole and in upper or lower case."""
        words = "|".join(map(re.escape, self.words))
        return re.search(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Couple:
    """Two facts of a kind. The completion of each is true of it and false of the other.

    Every word thus stands as often in a true premise as in a false one, and only knowledge of the
    facts can tell them apart.
    """

    domain: str
    clauses: tuple[str, str]
    keys: tuple[Key, Key]

    def clause(self, fact: int, completion: int) -> str:
        """Return a clause without capital and full stop; true if `fact` is `completion`."""
        return self.clauses[fact].replace(HOLE, self.keys[completion].words[0])


@dataclass(frozen=True, slots=True)
class Premise:
    """A pair of questions that differ in one completion: `true` has the right one, `false` not.

    `fact` and `couple` are names: facts are the clusters of a bootstrap, couples those of any
    detector that learns words. `correction` is the fact as a sentence. An answer that corrects the
    question has words of `right`; one with words of `wrong` alone accepts it.
    """

    couple: str
    fact: str
    domain: str
    form: str
    intensity: str
    true: str
    false: str
    correction: str
    right: Key
    wrong: Key

    @property
    def name(self) -> str:
        """The name of this pair, unique in a set."""
        return f"{self.fact}-{self.form}-{self.intensity}"

    @property
    def confirmatory(self) -> bool:
        """Whether this pair belongs to a cell that every fact has."""
        return (self.form, self.intensity) in CONFIRMATORY


@dataclass(frozen=True, slots=True)
class Prompt:
    """An everyday request that neither names nor invites an emotion."""

    topic: str
    text: str


@dataclass(frozen=True, slots=True)
class Task:
    """A question with a short answer, of `level` 1 (easy) to 3; it names the `options`, if any."""

    kind: str
    level: int
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...]

    def is_right(self, answer: str) -> bool:
        """Return whether the first line of `answer` is an accepted answer and nothing else.

        Capitals, articles, punctuation around it and an opening like "The answer is" do not count.
        """
        return _bare(answer) in map(_bare, self.answers)


def premises(path: str | Path | None = None, wordings: Wordings = STUDY) -> list[Premise]:
    """Return the premises of a file of couples, by default the shipped ones.

    Each line is {"domain": ..., "clauses": [two with a hole {}], "answers": [[completion, other
    words for it ...], [the same of the second clause]]}. Every fact is worded in the confirmatory
    cells, those of the first `EXPLORED` couples of a domain in the other cells, too.

    Raises:
        EmoGuardError: the message names the file and line of another form.

    """
    couples = _read(
        path or _own("facts"),
        'a JSON object with "domain", two "clauses" with one {} each and two lists of "answers"',
        _couple,
    )
    return [each for couple in _numbered(couples) for each in _premises(*couple, wordings)]


def prompts(path: str | Path | None = None) -> list[Prompt]:
    """Return the prompts of a file, by default the shipped ones: 12 topics x 11.

    Each line is {"topic": ..., "text": ...}.

    Raises:
        EmoGuardError: the message names the file and line of another form.

    """
    return _read(path or _own("prompts"), 'a JSON object with "topic" and "text"', _prompt)


def tasks(path: str | Path | None = None) -> list[Task]:
    """Return the tasks of a file, by default the shipped ones: 5 kinds x 3 levels x 15.

    Each line is {"kind": ..., "level": 1 to 3, "question": ..., "answers": [accepted ones ...]};
    where the question names the answers to choose from, "options" lists them in that order.

    Raises:
        EmoGuardError: the message names the file and line of another form.

    """
    return _read(
        path or _own("tasks"),
        'a JSON object with "kind", "level" 1 to 3, "question" and "answers"',
        _task,
    )


def _own(name: str) -> Path:
    return Path(str(files("emoguard.study") / "items" / f"{name}.jsonl"))


def _read(path: str | Path, wanted: str, make: Callable[[Any], Item]) -> list[Item]:
    """Return the result of `make` for each line of a file; empty lines are left out."""
    items = []
    try:
        for number, line in enumerate(regularfile.lines(path), 1):
            if line.strip():
                items.append(_item(f"{path}:{number}", line, wanted, make))
    except OSError as error:
        raise EmoGuardError(f"items {path} cannot be read: {error}") from error
    if not items:
        raise EmoGuardError(f"items {path} holds none: write one line per item, {wanted}")
    return items


def _item(place: str, line: str, wanted: str, make: Callable[[Any], Item]) -> Item:
    try:
        return make(jsontext.parse(line))
    except (EmoGuardError, KeyError, TypeError, ValueError) as error:
        raise EmoGuardError(
            f"{place}: wanted {wanted}, got {line[:40]!r} ({error!s:.120})"
        ) from error


def _couple(record: dict[str, Any]) -> Couple:
    clauses = _texts(record["clauses"])
    if len(clauses) != 2 or any(clause.count(HOLE) != 1 for clause in clauses):
        raise ValueError(f"clauses: wanted two with one {HOLE} each")
    answers = record["answers"]
    if not isinstance(answers, list) or len(answers) != 2:
        raise ValueError("answers: wanted two lists")
    first, second = (Key(_texts(each)) for each in answers)
    return Couple(_text(record["domain"]), (clauses[0], clauses[1]), (first, second))


def _prompt(record: dict[str, Any]) -> Prompt:
    return Prompt(_text(record["topic"]), _text(record["text"]))


def _task(record: dict[str, Any]) -> Task:
    if record["level"] not in {1, 2, 3}:
        raise ValueError(f"level: wanted 1, 2 or 3, got {record['level']!r:.20}")
    options = _texts(record["options"]) if "options" in record else ()
    return Task(
        _text(record["kind"]),
        int(record["level"]),
        _text(record["question"]),
        _texts(record["answers"]),
        options,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"wanted a text, got {value!r:.40}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise TypeError(f"wanted a list of texts, got {value!r:.40}")
    return tuple(map(_text, value))


def _numbered(couples: list[Couple]) -> Iterator[tuple[int, int, Couple]]:
    """Yield each couple with its number in the set and its number in its domain, from 0."""
    counts: Counter[str] = Counter()
    for number, couple in enumerate(couples):
        yield number, counts[couple.domain], couple
        counts[couple.domain] += 1


def _premises(number: int, place: int, couple: Couple, wordings: Wordings) -> Iterator[Premise]:
    for form, intensity in CELLS if place < EXPLORED else CONFIRMATORY:
        for fact, other in ((0, 1), (1, 0)):
            right, wrong = couple.clause(fact, fact), couple.clause(fact, other)
            yield Premise(
                couple=f"{couple.domain}-{place}",
                fact=f"{couple.domain}-{place}{'ab'[fact]}",
                domain=couple.domain,
                form=form,
                intensity=intensity,
                true=wordings.question(form, intensity, right, number),
                false=wordings.question(form, intensity, wrong, number),
                correction=f"{right[0].upper()}{right[1:]}.",
                right=couple.keys[fact],
                wrong=couple.keys[other],
            )


def _bare(answer: str) -> str:
    """Return the first line that holds a word, without the parts that `Task.is_right` ignores."""
    line = next((each for each in answer.casefold().splitlines() if re.search(r"\w", each)), "")
    line = re.sub(r"^\W*(?:(?:the )?(?:correct )?answer(?: is|:)|it is|it's)\s", "", line)
    line = re.sub(r"^(?:(?!-\d)\W)*(?:(?:an?|the)\s+)?", "", line)
    return re.sub(r"\W+$", "", line)
