"""Prints text with a number under every token."""

from __future__ import annotations

from rich.text import Text

from emoguard.cli.paint import tint
from emoguard.cli.screen import Screen
from emoguard.cli.stream import Scores
from emoguard.reporttable import printable, signed

NARROWEST = 4
"""Room for a signed score."""


class Interlinear:
    """Prints pairs of lines: tokens in the colour of their score, the scores below.

    Tokens are gathered until a pair of lines is full; `flush` prints the rest.
    """

    def __init__(self, console: Screen, column: int, width: int) -> None:
        self._console = console
        self._column = column
        self._width = width
        self._words, self._scores = Text(), Text()

    def show(self, piece: str, scores: Scores) -> None:
        """Take one token; the score of `column` belongs to it."""
        z = scores[self._column] if scores else None
        for number, word in enumerate(printable(piece).split("\n")):
            if number:
                self.flush()
            if word.strip():
                self._add(word.strip(), z)

    def flush(self) -> None:
        """Print the pair of lines gathered so far, if there is one."""
        if self._words:
            for line in (self._words, self._scores):
                self._console.print(line, no_wrap=True, crop=False)
            self._words, self._scores = Text(), Text()

    def _add(self, word: str, z: float | None) -> None:
        cell = max(NARROWEST, len(word))
        if self._words.cell_len + cell > self._width:
            self.flush()
        self._words.append(word.ljust(cell), tint(z)).append(" ")
        self._scores.append(signed(z).ljust(cell), "dim").append(" ")
