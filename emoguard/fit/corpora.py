"""Texts to fit on: JSON lines with `emotion`, `topic` and `text`; neutral ones have no emotion."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from emoguard import jsontext, regularfile
from emoguard.errors import EmoGuardError

CALIBRATING = 700
"""The first of the package's neutral prompts, which calibrations are made on."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a corpus; `label` is empty for a neutral text. `place` is its file and line."""

    label: str
    topic: str
    text: str
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Label:
    """A label of a probe: which words of a corpus mean it, and its sign on the valence axis."""

    name: str
    words: tuple[str, ...]
    valence: int


def default_labels() -> list[Label]:
    """Return the twelve labels of the shipped probes, as `labels.json` describes them."""
    data = json.loads((files("emoguard.fit") / "labels.json").read_text(encoding="utf-8"))
    return [_label(*each) for each in data.items()]


def read_labels(path: str | Path | None = None) -> list[Label]:
    """Return the labels of a JSON file as `labels.json` is one, without a path those of ours.

    An object of label: {"words": [which emotions of a corpus mean it], "valence": 1 or -1}.

    Raises:
        EmoGuardError: the file is none, or one word would mean two labels.

    """
    if path is None:
        return default_labels()
    try:
        data = jsontext.parse(regularfile.read(path, jsontext.LARGEST))
        found = [_label(*each) for each in data.items()]
    except (
        EmoGuardError, OSError, ValueError, LookupError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise EmoGuardError(
            f"labels {path} cannot be read: wanted a JSON object such as "
            f'{{"happy": {{"words": ["happy", "joyful"], "valence": 1}}}} ({error})'
        ) from error
    words = Counter(word for label in found for word in label.words)
    twice = [word for word, count in words.items() if count > 1]
    if twice or not found:
        problem = f"{', '.join(twice)} stands more than once" if twice else "it names none"
        raise EmoGuardError(f"labels {path}: every word must mean one label, but {problem}")
    return found


def recorded_labels(recipe: Mapping[str, Any]) -> list[Label]:
    """Return the labels that a probe was fitted with, from its recipe; ours where it has none.

    Raises:
        EmoGuardError: the recipe holds something else.

    """
    data = recipe.get("labels")
    if data is None:
        return default_labels()
    try:
        return [_label(*each) for each in data.items()]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EmoGuardError(f"the recipe in the probe file has no labels: {error}") from error


def _label(name: str, data: dict[str, Any]) -> Label:
    words, valence = data["words"], data["valence"]
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"{name:.60}: words must be a list of strings, got {words!r:.60}")
    if valence not in (-1, 1):
        raise ValueError(f"{name:.60}: valence must be 1 or -1, got {valence!r:.60}")
    return Label(name, tuple(words), valence)


def own() -> tuple[Path, ...]:
    """Return the package's own corpora, by two writers."""
    return own_stories(), own_letters()


def own_neutrals() -> tuple[Path, ...]:
    """Return the files of neutral texts that go with them."""
    return own_neutral(), own_letters_neutral()


def own_stories() -> Path:
    """Return the package's first corpus: 12 labels x 24 topics x 3 texts of 40 to 80 words.

    Written for this project, Apache-2.0 like all of it. The emotion is never named; every topic is
    told for every label in the first and in the third person (key `person`).
    """
    return Path(str(files("emoguard.fit") / "corpus" / "stories.jsonl"))


def own_neutral() -> Path:
    """Return the neutral texts of the first corpus: of the same kinds and topics, five of each."""
    return Path(str(files("emoguard.fit") / "corpus" / "neutral.jsonl"))


def own_letters() -> Path:
    """Return the package's second corpus: 12 labels x 24 topics x 1 text of 60 to 90 words.

    Written for this project, separately from the stories, and Apache-2.0 like all of it. Other
    topics and another style: letters, diaries, messages, speeches, minutes and records. The emotion
    is never named; each label has 18 texts in the first person and 6 in the third (key `person`).
    """
    return Path(str(files("emoguard.fit") / "corpus" / "letters.jsonl"))


def own_letters_neutral() -> Path:
    """Return the neutral texts of the second corpus: the same kinds and topics, two of each."""
    return Path(str(files("emoguard.fit") / "corpus" / "letters_neutral.jsonl"))


def neutral_prompts() -> list[str]:
    """Return the package's own neutral prompts, all different; held-out ones come last.

    Written for this project, Apache-2.0 like all of it. The first `CALIBRATING` are for calibrating
    on; the rest never are, so that benchmarks have prompts no calibration has seen.
    """
    text = (files("emoguard.fit") / "prompts" / "neutral.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n")


def read_prompts(path: str | Path) -> list[str]:
    """Read prompts from a file, one per line; empty lines and repetitions are left out.

    Raises:
        EmoGuardError: the file cannot be read or holds none.

    """
    try:
        lines = map(str.strip, regularfile.lines(path))
        found = list(dict.fromkeys(filter(None, lines)))
    except OSError as error:
        raise EmoGuardError(f"prompts {path} cannot be read: {error}") from error
    if not found:
        raise EmoGuardError(f"prompts {path} holds none: write one per line")
    return found


def read(path: str | Path, labels: Sequence[Label] = ()) -> list[Text]:
    """Read a corpus. With `labels`, keep the texts whose emotion is one of their words.

    Raises:
        EmoGuardError: naming the file and line that is not as described above.

    """
    meaning = {word: label.name for label in labels for word in label.words}
    try:
        texts = [
            replace(text, label=meaning.get(text.label, text.label))
            for text in _texts(path)
            if not labels or text.label in meaning
        ]
    except OSError as error:
        raise EmoGuardError(f"corpus {path} cannot be read: {error}") from error
    if not texts:
        words = ", ".join(sorted(meaning))
        raise EmoGuardError(f"corpus {path} holds no text with an emotion among: {words}")
    return texts


def _texts(path: str | Path) -> Iterator[Text]:
    """Yield the text in each line of a file, its emotion as label; empty lines are left out."""
    for number, line in enumerate(regularfile.lines(path), 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = jsontext.parse(line)
            emotion, text = _string(record.get("emotion", "")), _string(record["text"])
            found = Text(emotion, str(record.get("topic", "")), text, place)
        except (EmoGuardError, KeyError, AttributeError, TypeError) as error:
            raise EmoGuardError(
                f"{place}: wanted a JSON object with emotion, topic and text, got {line[:40]!r}"
            ) from error
        if not text.strip():
            raise EmoGuardError(f"{place}: the text is empty: take the line out")
        yield found


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"wanted a string, got {value!r:.40}")
    return value


def balanced(texts: Sequence[Text], most: int, seed: int = 0) -> list[Text]:
    """Return at most `most` texts per label, spread evenly over topics, in a fixed order."""
    cells: dict[str, dict[str, list[Text]]] = defaultdict(lambda: defaultdict(list))
    for text in texts:
        cells[text.label][text.topic].append(text)
    chosen = []
    for label in sorted(cells):
        rng = random.Random(f"{seed}:{label}")  # noqa: S311  (a choice of texts, not a secret)
        columns = [rng.sample(cell, len(cell)) for _, cell in sorted(cells[label].items())]
        rounds = max(map(len, columns))
        spread = [c[n] for n in range(rounds) for c in columns if n < len(c)]
        chosen.extend(spread[:most])
    return chosen
