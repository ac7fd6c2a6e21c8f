"""Tells whether answers are in the language they were asked in, by runs of letters.

Every language has its frequent pairs and triples of letters (Cavnar and Trenkle, "N-Gram-Based Text
Categorization", 1994). Answers that have few of those of the prompts are in another language, or in
none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

FREQUENT = 300
"""Runs of letters that stand for a language."""

LEAST = 0.6
"""Share of frequent runs, as a part of that of the prompts themselves, that an answer needs.

Measured against our English prompts: 99 % of our stories and letters and of lines of XED in English
have more, and 95 % of its lines in German, French, Spanish and Finnish fewer.
"""

SHORTEST = 40
"""Characters of the shortest answer whose language is told."""

FEWEST_PROMPTS = 20


def strangers(prompts: Sequence[str], answers: Sequence[str]) -> float | None:
    """Return the share of answers, in [0, 1], that are in another language than the prompts.

    None where there are too few prompts or answers to tell.
    """
    long_enough = [answer for answer in answers if len(answer) >= SHORTEST]
    if len(prompts) < FEWEST_PROMPTS or not long_enough:
        return None
    known = _frequent(prompts[::2])
    usual = [_share(known, prompt) for prompt in prompts[1::2]]
    least = LEAST * sum(usual) / len(usual)
    return sum(_share(known, answer) < least for answer in long_enough) / len(long_enough)


def _frequent(texts: Sequence[str]) -> set[str]:
    counts = Counter(run for text in texts for run in _runs(text))
    return {run for run, _ in counts.most_common(FREQUENT)}


def _share(known: set[str], text: str) -> float:
    runs = list(_runs(text))
    return sum(run in known for run in runs) / max(1, len(runs))


def _runs(text: str) -> Iterator[str]:
    spaced = f" {' '.join(text.lower().split())} "
    for length in (2, 3):
        for start in range(len(spaced) - length + 1):
            yield spaced[start : start + length]
