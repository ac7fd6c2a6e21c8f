"""Reads texts to fit on: JSON lines with `emotion` (unless neutral), `topic` and `text`."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from emoguard import jsontext, regularfile
from emoguard.errors import EmoGuardError

CALIBRATING = 800
"""Number of the package's neutral prompts that calibrations use, from the first on."""

LONGEST = 20_000
"""Characters of a text: some 4,000 tokens."""

SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which put no spaces between words."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a corpus; `label` is empty for a neutral text. `place` is its file and line."""

    label: str
    topic: str
    text: str
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Label:
    """A label of a probe: the words of a corpus that mean it, and its sign on the valence axis.

    `valence` is 1, -1, or 0 for a label without a sign.
    """

    name: str
    words: tuple[str, ...]
    valence: int


def default_labels() -> list[Label]:
    """Return the twelve labels of the shipped probes, as `labels.json` describes them."""
    data = json.loads((files("emoguard.fit") / "labels.json").read_text(encoding="utf-8"))
    return [_label(*each) for each in data.items()]


def read_labels(path: str | Path | None = None) -> list[Label]:
    """Return the labels of a JSON file in the form of `labels.json`, by default the shipped one.

    The file is an object of label: {"words": [emotions of a corpus that mean it], "valence": 1 or
    -1}. Without a `valence` for every label there is no valence axis. Names between commas, such as
    `sarcastic,sincere`, are labels of one word each without a sign.

    Raises:
        EmoGuardError: the file is malformed, or one word would mean two labels.

    """
    if path is None:
        return default_labels()
    # Path.exists raises where names between commas are longer than any file's.
    if "," in str(path) and not os.path.exists(path):  # noqa: PTH110
        return _unsigned_labels(str(path))
    try:
        data = jsontext.parse(regularfile.read(path, jsontext.LARGEST))
        labels = [_label(*each) for each in data.items()]
    except (
        EmoGuardError, OSError, ValueError, LookupError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise EmoGuardError(
            f"labels {path} cannot be read: wanted a JSON object such as "
            f'{{"happy": {{"words": ["happy", "joyful"], "valence": 1}}}} ({error})'
        ) from error
    words = Counter(word for label in labels for word in label.words)
    twice = [word for word, count in words.items() if count > 1]
    if twice or not labels:
        problem = f"{', '.join(twice)} stands more than once" if twice else "it names none"
        raise EmoGuardError(f"labels {path}: every word must mean one label, but {problem}")
    if len({bool(label.valence) for label in labels}) > 1:
        without = ", ".join(label.name for label in labels if not label.valence)
        raise EmoGuardError(
            f"labels {path}: {without} has no valence and others have one: give it to all, or to "
            "none and there is no valence axis"
        )
    return labels


def _unsigned_labels(names: str) -> list[Label]:
    words = [name.strip() for name in names.split(",")]
    if not all(words) or len(set(words)) < len(words):
        raise EmoGuardError(
            f"--labels takes different names between commas, such as sarcastic,sincere, or a JSON "
            f"file of labels, got {names!r:.80}"
        )
    return [Label(word, (word,), 0) for word in words]


def recorded_labels(recipe: Mapping[str, Any]) -> list[Label]:
    """Return the labels in a probe's recipe; by default the shipped ones.

    Raises:
        EmoGuardError: the recipe's labels are malformed.

    """
    data = recipe.get("labels")
    if data is None:
        return default_labels()
    try:
        return [_label(*each) for each in data.items()]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EmoGuardError(f"the recipe in the probe file has no labels: {error}") from error


def _label(name: str, data: dict[str, Any]) -> Label:
    words, valence = data["words"], data.get("valence", 0)
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"{name:.60}: words must be a list of strings, got {words!r:.60}")
    if "valence" in data and valence not in (-1, 1):
        raise ValueError(f"{name:.60}: valence must be 1 or -1, got {valence!r:.60}")
    return Label(name, tuple(words), valence)


def own() -> tuple[Path, ...]:
    """Return the package's own corpora, by one writer in two styles."""
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
        EmoGuardError: the file cannot be read or holds no prompt.

    """
    try:
        lines = map(str.strip, regularfile.lines(path))
        prompts = list(dict.fromkeys(filter(None, lines)))
    except OSError as error:
        raise EmoGuardError(f"prompts {path} cannot be read: {error}") from error
    if not prompts:
        raise EmoGuardError(f"prompts {path} holds none: write one per line")
    return prompts


def read(path: str | Path, labels: Sequence[Label] = ()) -> list[Text]:
    """Read a corpus. With `labels`, keep the texts whose emotion is one of their words.

    Raises:
        EmoGuardError: a line is malformed, or repeats another text with another emotion; the
            message names the file and line.

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
        raise EmoGuardError(
            f"corpus {path} holds no text with an emotion among: {words}; emoguard corpus write "
            "lets a model write some"
        )
    _check_repeats(texts)
    return texts


def repeated(texts: Sequence[Text]) -> list[tuple[Text, Text]]:
    """Return every text that repeats an earlier one, ignoring case and spaces."""
    first: dict[str, Text] = {}
    known = ((first.setdefault(_plain(text.text), text), text) for text in texts)
    return [(before, text) for before, text in known if before is not text]


def check_apart(named: Mapping[str, Sequence[Text]]) -> None:
    """Raise if two corpora share a text: neither could test directions fitted on the other.

    Raises:
        EmoGuardError: two corpora share a text; the message names both places.

    """
    together = [replace(text, label=name) for name, texts in named.items() for text in texts]
    for before, text in repeated(together):
        if before.label != text.label:
            raise EmoGuardError(
                f"corpora {before.label} and {text.label} share texts ({before.place} and "
                f"{text.place}), so that neither tests what was fitted on the other: take them out "
                "of one, or give both as one file"
            )


def contradiction(before: Text, text: Text) -> str | None:
    """Return a sentence if an earlier copy of the text has another emotion, else None."""
    if before.label == text.label:
        return None
    here, there = (each.label or "neutral" for each in (text, before))
    return f"the text of {before.place} again, here {here} and there {there}: take one out"


def _check_repeats(texts: Sequence[Text]) -> None:
    for before, text in repeated(texts):
        if sentence := contradiction(before, text):
            raise EmoGuardError(f"{text.place}: {sentence}")


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _texts(path: str | Path) -> Iterator[Text]:
    """Yield the text in each line of a file, its emotion as label; empty lines are left out."""
    for number, line in enumerate(regularfile.lines(path), 1):
        if line.strip():
            yield parse(line, f"{path}:{number}")


def parse(line: str, place: str) -> Text:
    """Return the text in one line of a corpus, its emotion as label.

    Raises:
        EmoGuardError: the line is malformed, or its text has fewer than two words or too many.

    """
    try:
        record = jsontext.parse(line)
    except EmoGuardError as error:
        raise _no_text(place, f"{line[:40]!r} ({error})") from error
    if not isinstance(record, dict):
        raise _no_text(place, f"{line[:40]!r}")
    if "text" not in record:
        keys = ", ".join(map(str, record)) or "none"
        raise _no_text(place, f"one with the keys {keys:.80}")
    fields = {key: record.get(key, "") for key in ("emotion", "topic", "text")}
    if type(fields["topic"]) is int:
        fields["topic"] = str(fields["topic"])
    for key, value in fields.items():
        if not isinstance(value, str):
            raise _no_text(place, f"{value!r:.40} as {key}")
    _check_length(fields["text"], place)
    return Text(fields["emotion"], fields["topic"], fields["text"], place)


def _no_text(place: str, came: str) -> EmoGuardError:
    wanted = "wanted a JSON object with emotion, topic and text, all strings"
    return EmoGuardError(f"{place}: {wanted}, got {came}")


def _check_length(text: str, place: str) -> None:
    words = text.split()
    if not words:
        raise EmoGuardError(f"{place}: the text is empty: take the line out")
    if len(words) == 1 and not SPACELESS.search(text):
        raise EmoGuardError(f"{place}: the text is one word, {words[0]:.40}: wanted a sentence")
    if len(text) > LONGEST:
        raise EmoGuardError(
            f"{place}: the text has {len(text):,} characters, wanted at most {LONGEST:,}: one text "
            "a line, split long ones"
        )


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
