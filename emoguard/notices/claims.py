"""Finds sentences that claim to feel or to be human, and the question whether one is.

A small set of English patterns (`notices/claims.json`) over single sentences. Sentences that quote,
speak of somebody else, deny or suppose make no claim. `docs/notices.md` has measured error rates; a
thousand characters take about a millisecond.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

LONGEST = 200_000
LONGEST_QUESTION = 8_000
"""Characters examined at the end of a response, and of the user's message, whose writer may want
this to take long."""

STRAIGHT = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"'}
)
QUOTED = re.compile(r'"[^"\n]*"' r"|(?<![\w'])'[^\n]{1,300}?'(?!\w)")
TOLD = re.compile(
    r"^[ \t]*>.*$"  # quoted in a mail
    r"|^[ \t]*[A-Z]\w*: .*$"  # a speaker in a dialogue
    r"|\b(?:write|say|tell|reply|answer|says|entry)\b[^:.\n]{0,80}: .*$",  # words for another
    re.MULTILINE,
)
IM = re.compile(r"\bim\b")
ENDS = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Patterns:
    """The compiled patterns of claims."""

    feels: re.Pattern[str]
    human: re.Pattern[str]
    exempt: re.Pattern[str]
    asks: re.Pattern[str]


def claims(text: str) -> bool:
    """Return whether the speaker of a response claims to feel or to be human."""
    return any(claim(sentence) for sentence in sentences(text[-LONGEST:]))


def claim(sentence: str) -> str | None:
    """Return the claim of a sentence from `sentences`: "feels", "human" or None."""
    known = patterns()
    if known.exempt.search(sentence):
        return None
    if known.feels.search(sentence):
        return "feels"
    return "human" if known.human.search(sentence) else None


def asks(text: str) -> bool:
    """Return whether a user asks if they are talking with a human."""
    return any(patterns().asks.search(each) for each in sentences(text[-LONGEST_QUESTION:]))


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text that are its own, in lower case and with straight quotes."""
    plain = QUOTED.sub('""', TOLD.sub("", text.translate(STRAIGHT)))
    for sentence in ENDS.split(plain):
        yield IM.sub("i'm", " ".join(sentence.lower().split()))


@functools.cache
def patterns() -> Patterns:
    """Return the shipped patterns, compiled once."""
    data = json.loads((files("emoguard") / "notices" / "claims.json").read_bytes())
    words = {name: f"(?:{'|'.join(each)})" for name, each in data["words"].items()}
    words["adverb"] = f"(?:{words['adverb']}[, ]+){{0,3}}"
    return Patterns(
        *(_compiled(data[name], words) for name in ("feels", "human", "exempt", "asks"))
    )


def _compiled(sources: Sequence[str], words: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(source.format(**words) for source in sources))
