"""Tests directions fitted on stories on text that people wrote, by families of emotions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard import jsontext, regularfile
from emoguard.errors import EmoGuardError
from emoguard.validate.judged import Judged, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


OURS = files("emoguard.fit") / "families.json"


@dataclass(frozen=True)
class Family:
    """Related emotions: labels of the probe, and the annotators' words for them.

    `valence` is +1 or -1.
    """

    name: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    valence: int


def families(path: str | Path | None = None) -> list[Family]:
    """Return the families of a file, default those that fit GoEmotions and the shipped labels.

    Raises:
        EmoGuardError: the file is not a JSON object of families.

    """
    try:
        raw = regularfile.read(path, jsontext.LARGEST) if path else OURS.read_bytes()
        return [
            Family(name, _texts(d["labels"]), _texts(d["words"]), int(d["valence"]))
            for name, d in jsontext.parse(raw).items()
        ]
    except (
        EmoGuardError, OSError, ValueError, LookupError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise EmoGuardError(
            f"families {path} cannot be read: wanted a JSON object of name: "
            f"{{labels, words, valence}} ({error})"
        ) from error


def read_human(path: str | Path, known: Sequence[Family]) -> tuple[list[str], NDArray[np.str_]]:
    """Return the texts whose words all lie in one family, and the family of each.

    A line of a `.tsv` has a text and its words, comma-separated; numbers count lines of
    `labels.txt` beside it, from 0, as in GoEmotions. JSON lines have `text` and `labels` (or
    `emotion`).

    Raises:
        EmoGuardError: the file cannot be read, a line has neither form, or fewer than two families
            have texts.

    """
    path = Path(path)
    family = {word: each.name for each in known for word in each.words}
    texts, family_names = [], []
    for text, words in _tsv(path) if path.suffix == ".tsv" else _jsonl(path):
        names = {family.get(word, "") for word in words}
        if len(names) == 1 and "" not in names:
            texts.append(text)
            family_names.append(names.pop())
    if len(set(family_names)) < 2:
        raise EmoGuardError(
            f"{path} must hold texts of at least two families, got {len(texts)} texts of "
            f"{', '.join(sorted(set(family_names))) or 'none'}: give --families that fit its words"
        )
    return texts, np.array(family_names)


def chosen(family_names: NDArray[np.str_], most: int, seed: int = 0) -> NDArray[np.bool_]:
    """Return at most `most` texts of each family, drawn at random, as a mask (texts,)."""
    rng = np.random.default_rng(seed)
    keep = np.zeros(len(family_names), bool)
    for name in np.unique(family_names):
        rows = np.flatnonzero(family_names == name)
        keep[rng.permutation(rows)[:most]] = True
    return keep


def family_task(
    known: Sequence[Family], family_names: NDArray[np.str_], names: Sequence[str]
) -> Task:
    """Return the task of separating the families that have both texts and a label of the probe.

    Raises:
        EmoGuardError: there are fewer than two such families.

    """
    kept = [f for f in known if f.name in family_names and set(f.labels) & set(names)]
    if len(kept) < 2:
        raise EmoGuardError(
            f"text by people needs at least two families with a label of {', '.join(names)}; "
            f"{', '.join(f.name for f in kept) or 'none'} has one: give --families that name them"
        )
    return Task(tuple(f.name for f in kept), tuple(f.valence for f in kept))


def in_families(judged: Judged, task: Task, known: Sequence[Family]) -> Judged:
    """Return scores of families, for every detector: the mean over a family's labels."""
    labels = {
        f.name: [judged.task.names.index(n) for n in f.labels if n in judged.task.names]
        for f in known
    }
    scores = {
        name: task.with_axis(
            np.stack([np.nanmean(each[:, labels[f]], axis=1) for f in task.names], axis=1)
        )
        for name, each in judged.scores.items()
    }
    positive = task.positives(judged.labels)
    return Judged(task, judged.labels, positive, judged.weights, scores, judged.layers)


def _tsv(path: Path) -> Iterator[tuple[str, list[str]]]:
    beside = path.parent / "labels.txt"
    numbered = list(_lines(beside)) if beside.exists() or beside.is_symlink() else []
    for number, line in _filled(path):
        parts = line.split("\t")
        if len(parts) < 2:
            raise EmoGuardError(f"{path}:{number}: wanted text, tab, labels, got {line[:40]!r}")
        yield parts[0], [_word(each.strip(), numbered) for each in parts[1].split(",")]


def _word(word: str, numbered: Sequence[str]) -> str:
    is_number = word.isascii() and word.isdigit() and len(word) < 10
    return numbered[int(word)] if is_number and int(word) < len(numbered) else word


def _jsonl(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in _filled(path):
        try:
            record: Mapping[str, Any] = jsontext.parse(line)
            yield str(record["text"]), list(_texts(record.get("labels") or [record["emotion"]]))
        except (EmoGuardError, LookupError, TypeError, AttributeError) as error:
            raise EmoGuardError(
                f"{path}:{number}: wanted a JSON object with text and labels, got {line[:40]!r}"
            ) from error


def _filled(path: Path) -> Iterator[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(_lines(path), 1) if line.strip())


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from regularfile.lines(path)
    except OSError as error:
        raise EmoGuardError(f"human text {path} cannot be read: {error}") from error


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"wanted a list of texts, got {values!r:.60}")
    return tuple(values)
