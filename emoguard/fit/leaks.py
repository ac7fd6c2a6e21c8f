"""Finds words that name an emotion: a text with one teaches a probe the word, not the emotion."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from emoguard.fit.corpora import SPACELESS, Label, Text

STEMS = (
    *("happ(?:y|i\\w*)", "joy\\w*", "glad\\w*", "delight\\w*"),
    *("calm\\w*", "content(?:ed\\w*|ment)?", "seren\\w+", "peaceful\\w*", "relax\\w*"),
    *("proud\\w*", "pride\\w*"),
    *("lov(?:e|es|ed|ing|ingly|er|ers)", "adore\\w*", "beloved"),
    *("sad(?:ness|ly|der|dest|den\\w*)?", "depress\\w*", "sorrow\\w*", "grie(?:f|v\\w*)"),
    "miserabl\\w*",
    *("ang(?:er\\w*|r(?:y|i\\w*))", "fur(?:y|ious\\w*)", "rag(?:e|ed|es|ing)"),
    *("hostil\\w*", "contempt\\w*", "hat(?:e|es|ed|ing|red|eful)"),
    *("frustrat\\w*", "exasperat\\w*"),
    *("afraid", "fear\\w*", "terr(?:or\\w*|if\\w*)", "scar(?:ed|y|es|ing)", "fright\\w*"),
    *("panic\\w*", "nervous\\w*", "nerves", "anxi\\w*", "worr(?:y|i\\w*)"),
    *("desperat\\w*", "despair\\w*", "hopeless\\w*"),
    *("guilt\\w*", "asham\\w*", "shame\\w*", "remorse\\w*"),
    "emotion\\w*",
)
"""The words of the twelve labels and their families, as regular expressions of whole words."""

DOUBTFUL = 0.05
"""Share of a label's texts with its own word above which the direction may be that of the word."""

_NAMED = re.compile(rf"\b(?:{'|'.join(STEMS)})\b", re.IGNORECASE)


SUFFIXES = {
    **dict.fromkeys(("ity", "ness", "ful", "ous", "ly", "ing", "ed", "y", "e", "d"), "?"),
    **dict.fromkeys(("tical", "ical", "tic", "ic"), ""),
}
"""Endings that other forms of a word may lack, and whether the stem alone may be a form: guilt of
guilty is one, iron of ironic is not. An ending stands before those it contains."""

ENDINGS = (
    "s|es|d|ed|ing|ly|y|ily|ness|iness|ful|fully|fulness|e|ely|er|est|ity|ment|dom|ous|ously|m|ms|t"
    "|ts|tic|tically|ic|ically|ical|ism|ist|ists|ion|ions|ance|ence|ancy|ency"
)
"""Endings of its other forms."""


@lru_cache(maxsize=64)
def forms(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that matches the words in any form.

    Forms of the words in `STEMS` are listed there. Forms of others come from rules of English,
    which know no meaning: they may match a word that only looks related.
    """
    return re.compile("|".join(map(_forms, words)), re.IGNORECASE)


def _forms(word: str) -> str:
    if SPACELESS.search(word):
        return re.escape(word)
    known = [stem for stem in STEMS if re.fullmatch(stem, word, re.IGNORECASE)]
    return rf"\b(?:{'|'.join(known or _by_rule(word))})\b"


def _by_rule(word: str) -> list[str]:
    patterns = [rf"{re.escape(word)}(?:{ENDINGS})?"]
    for suffix, bare in SUFFIXES.items():
        stem = word.removesuffix(suffix)
        if stem != word and len(stem) >= 4:
            return [*patterns, rf"{re.escape(stem)}(?:{ENDINGS}){bare}"]
    return patterns


def leaks(texts: Sequence[Text], labels: Sequence[Label]) -> dict[str, list[Text]]:
    """Return, by label, the texts that hold one of the label's own words in any form.

    Such a text may teach a probe the word. The name of a label counts as one of its words. Labels
    without such texts are left out.
    """
    by_label: dict[str, list[Text]] = {}
    for label in labels:
        pattern = forms((label.name, *label.words))
        own = [text for text in texts if text.label == label.name and pattern.search(text.text)]
        if own:
            by_label[label.name] = own
    return by_label


def leak_cautions(corpora: Sequence[Sequence[Text]], labels: Sequence[Label]) -> list[str]:
    """Return a sentence about labels of which more than `DOUBTFUL` of the texts hold their word.

    Fewer are counted in the card and listed by `emoguard corpus check`, but make nobody who uses
    the probe doubt it: a direction is a difference of means over all texts of a label.
    """
    everything = [text for texts in corpora for text in texts]
    sizes = Counter(text.label for text in everything)
    leaking = {
        name: texts
        for name, texts in leaks(everything, labels).items()
        if len(texts) > DOUBTFUL * sizes[name]
    }
    if not leaking:
        return []
    counts = ", ".join(f"{name} {len(texts)} of {sizes[name]}" for name, texts in leaking.items())
    first = Path(next(iter(leaking.values()))[0].place).name  # a probe file goes to other machines
    sentence = (
        f"texts that hold a word of their own label ({counts}; the first at {first}): its "
        "direction may be that of the word; emoguard corpus check lists them"
    )
    return [sentence]


def named_emotion(text: str, words: Sequence[str] = ()) -> str | None:
    """Return the first word of `text` that names one of the twelve emotions, else None.

    `words` are further words to look for, in any form.
    """
    match = _NAMED.search(text) or (forms(tuple(words)).search(text) if words else None)
    return match.group() if match else None
