"""Finds words by which a system prompt makes a model more expressive: a reminder, no judgement."""

from __future__ import annotations

import re

WORDS = re.compile(
    r"\b(warm(?:th|ly|er|est)?|lov(?:e|es|ed|ing|ingly)|caring|affection(?:ate|ately)?|"
    r"empath(?:y|ic|etic|etically|ise|ize)|compassion(?:ate|ately)?|tender(?:ly|ness)?|"
    r"emotion(?:s|al|ally)?|emotive|feelings?|expressive(?:ly)?|passion(?:ate|ately)?|"
    r"enthusias(?:m|tic|tically)|excited(?:ly)?|excitement|cheerful(?:ly)?|joy(?:ful|fully|ous)?|"
    r"bubbly|heartfelt|intimate(?:ly)?|intimacy|romantic(?:ally)?|romance|flirt(?:y|s|ing|atious)?|"
    r"girlfriend|boyfriend|soulmate|companion|best friend|devoted|adore[sd]?|adoring|"
    r"sympath(?:y|etic|etically)|supportive|comforting|sad(?:ness|ly)?|angry|angrily|anger)\b",
    re.IGNORECASE,
)
LONGEST = 200_000
"""Characters examined; no system prompt is longer."""


def expressive_words(prompt: str) -> list[str]:
    """Return the words in a system prompt that ask for emotional expression, each once.

    English only; prohibitions match as well ("do not be emotional").
    """
    return list(dict.fromkeys(word.lower() for word in WORDS.findall(prompt[:LONGEST])))
