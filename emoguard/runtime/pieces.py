"""Turns token ids that arrive one by one into the text each of them adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

UNFINISHED = "\ufffd"
"""A decoder's sign for bytes of an unfinished character."""


class Pieces:
    """Gives every token the text it adds; a character split over tokens belongs to its last one.

    A token's text depends on its left neighbours (leading spaces, bytes of one character), so each
    piece is the difference of two decodings that start a few tokens earlier.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0
        self._shown = 0

    def add(self, token_id: int) -> str:
        """Return the text that `token_id` adds, empty while a character is unfinished."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._start : self._shown])
        after = self._decode(self._ids[self._start :])
        if after.endswith(UNFINISHED) and len(self._ids) - self._shown < 4:
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return after[len(before) :]


def split(decode: Decode, token_ids: Sequence[int]) -> tuple[str, ...]:
    """Return the text that each of `token_ids` adds; joined, they are the decoded text."""
    pieces = Pieces(decode)
    return tuple(pieces.add(token_id) for token_id in token_ids)
