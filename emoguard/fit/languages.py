"""Detects answers in another language than their prompts, by the frequent words of the prompts.

The frequent words of a text are those of its language: articles, pronouns, prepositions. Answers
with hardly any of the prompts' frequent words are in another language, or in none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

FREQUENT = 80
"""Number of frequent words that represent a language."""

LEAST = 0.25
"""Share of frequent words that an answer needs, as a part of that of the prompts themselves.

Measured with our English prompts on eight lines of XED at a time: 99 % of those in English have
more than .30, and 99 % of those in German, French, Spanish and Finnish less than .24.
"""

PLAIN = 0.2
"""Share of frequent words that prompts need for this check; without spaces between words hardly
any word occurs twice."""

SHORTEST = 12
"""Words of the shortest answer that is checked."""

FEWEST_PROMPTS = 20

WORD = re.compile(r"[^\W\d_]+")


def strangers(prompts: Sequence[str], answers: Sequence[str]) -> float | None:
    """Return the share of answers, in [0, 1], that are in another language than the prompts.

    None if it cannot be measured: too few prompts or answers, or a language without spaces.
    """
    spoken = [words for words in map(_words, answers) if len(words) >= SHORTEST]
    if len(prompts) < FEWEST_PROMPTS or not spoken:
        return None
    counts = Counter(word for prompt in prompts[::2] for word in _words(prompt))
    known = {word for word, _ in counts.most_common(FREQUENT)}
    shares = [_share(known, _words(prompt)) for prompt in prompts[1::2]]
    usual = sum(shares) / len(shares)
    if usual < PLAIN:
        return None
    return sum(_share(known, words) < LEAST * usual for words in spoken) / len(spoken)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _share(known: set[str], words: Sequence[str]) -> float:
    return sum(word in known for word in words) / max(1, len(words))
