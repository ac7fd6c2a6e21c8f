"""Finds texts that repeat one another: they share runs of five words."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from emoguard.errors import EmoGuardError

RUN = 5
"""Words of a run."""

SHARED = 4
"""Runs in common from which two texts are near-duplicates: eight words in a row, say."""

MOST_RUNS = 1_000_000
"""Most runs remembered, 200 bytes each: those of 16,000 texts of 60 words."""


class Duplicates:
    """Remembers the runs of texts, to find repetitions."""

    def __init__(self) -> None:
        self._holders: dict[int, list[int]] = defaultdict(list)
        self._count = 0
        self._left = MOST_RUNS

    def add(self, text: str) -> None:
        """Remember a text; texts are numbered from 0.

        Raises:
            EmoGuardError: the texts have more runs than can be remembered.

        """
        runs = _runs(text)
        self._left -= len(runs)
        if self._left < 0:
            raise EmoGuardError(
                f"repetitions are found among {MOST_RUNS:,} words at most, got more: let fewer "
                "texts be written, or shorter ones"
            )
        for run in runs:
            self._holders[run].append(self._count)
        self._count += 1

    def of(self, text: str) -> int | None:
        """Return the number of the first text that `text` nearly repeats, else None."""
        shared = Counter(n for run in _runs(text) for n in self._holders.get(run, ()))
        return min((n for n, runs in shared.items() if runs >= SHARED), default=None)


def _runs(text: str) -> set[int]:
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[n : n + RUN])) for n in range(len(words) - RUN + 1)}
