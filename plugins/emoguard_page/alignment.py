"""Aligns the tokens that were read with the text that the server sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Token = TypeVar("Token")

AHEAD = 64
"""Characters without a token that may stand before the text of the next one."""


@dataclass(frozen=True)
class Span(Generic[Token]):
    """A part of the text and the token it came from; None where no token is known.

    A token of no text (a mark, part of a character, what a stop sequence cut off) has an empty one.
    """

    text: str
    token: Token | None


class Alignment(Generic[Token]):
    """Takes text and tokens as they come, in any rhythm, and returns them together.

    The text is the server's to the letter, however it differs from what the tokens decode to:
    blanks that it stripped, a stop sequence that it held back, words that it put in itself.
    """

    def __init__(self) -> None:
        self._text = ""
        self._waiting: deque[tuple[str, Token]] = deque()

    def add_text(self, text: str) -> None:
        """Take what the server sent next."""
        self._text += text

    def add_token(self, piece: str, token: Token) -> None:
        """Take the next token and the text that it decodes to."""
        self._waiting.append((piece, token))

    def take(self, *, end: bool = False) -> list[Span[Token]]:
        """Return the spans that are settled by now; at the `end` the rest."""
        spans: list[Span[Token]] = []
        while self._waiting:
            piece, token = self._waiting[0]
            place = self._place(piece, end=end)
            if place is None:
                break
            self._waiting.popleft()
            before, length = place
            if before:
                spans.append(Span(self._cut(before), None))
            spans.append(Span(self._cut(length), token))
        if end and self._text:
            spans.append(Span(self._cut(len(self._text)), None))
        return spans

    def _place(self, piece: str, *, end: bool) -> tuple[int, int] | None:
        """Return the length of the text before the piece and of the piece; None means wait."""
        if not piece:
            return 0, 0
        if self._text.startswith(piece):
            return 0, len(piece)
        stripped = piece.lstrip()
        if stripped != piece and stripped and self._text.startswith(stripped):
            return 0, len(stripped)
        if not end and (piece.startswith(self._text) or stripped.startswith(self._text)):
            return None  # its text is still on the way
        place = self._text.find(stripped, 0, AHEAD + len(stripped)) if stripped else -1
        if place > 0:
            return place, len(stripped)
        # At the end a stop sequence may have left the first letters of a token.
        shared = len(self._text) if self._text and piece.startswith(self._text) else 0
        return 0, shared

    def _cut(self, length: int) -> str:
        cut, self._text = self._text[:length], self._text[length:]
        return cut
