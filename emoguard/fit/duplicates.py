"""Texts that repeat one another: they share runs of five words."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

RUN = 5
"""Words of a run."""

SHARED = 4
"""Runs in common from which two texts are near-duplicates: eight words in a row, say."""


class Duplicates:
    """Knows the runs of the texts it was given."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, ...], set[int]] = defaultdict(set)
        self._count = 0

    def add(self, text: str) -> None:
        """Remember a text; the first one has number 0."""
        for run in _runs(text):
            self._holders[run].add(self._count)
        self._count += 1

    def of(self, text: str) -> int | None:
        """Return the number of the first text that `text` nearly repeats, None without any."""
        shared = Counter(n for run in _runs(text) for n in self._holders.get(run, ()))
        return min((n for n, runs in shared.items() if runs >= SHARED), default=None)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[n : n + RUN]) for n in range(len(words) - RUN + 1)}
