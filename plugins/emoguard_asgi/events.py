"""Cuts server-sent events at blank lines, reads them, and adds to one without changing the rest.

The format is that of the HTML standard, section 9.2: lines end in LF, CR or CRLF, a blank line ends
an event, the data of an event are its `data` lines joined by LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Atomic groups: a CRLF is one end of line, never two.
END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
LINE = re.compile(rb"[^\r\n]+")


LONGEST_END = 4
"""Bytes of the longest blank line with the end of line before it."""


class Events:
    """Cuts a stream of bytes, however it was split, into whole events.

    Only the beginning of an event that has not ended yet is kept back.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def held(self) -> int:
        """Return how many bytes are kept."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that `chunk` completes, each with the blank line that ends it."""
        # No event ends in the part kept back: searching it again would take quadratic time.
        seen = max(0, len(self._rest) - LONGEST_END + 1)
        self._rest += chunk
        ends = [match.end() for match in END.finditer(self._rest, seen)]
        starts = [0, *ends]
        whole = [bytes(self._rest[start:end]) for start, end in zip(starts, ends, strict=False)]
        del self._rest[: starts[-1]]
        return whole

    def rest(self) -> bytes:
        """Return the rest that no blank line has ended, and forget it."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest


def data(event: bytes) -> bytes:
    """Return the data of one event; empty for a comment, such as a ping."""
    return b"\n".join(value for _, value in _data_lines(event))


def add_member(event: bytes, member: bytes) -> bytes:
    """Return the event with `member` (`"name":value`) put last into the JSON object it carries."""
    places = [start + value.rindex(b"}") for start, value in _data_lines(event) if b"}" in value]
    return event[: places[-1]] + b"," + member + event[places[-1] :]


def make(text: bytes, like: bytes) -> bytes:
    """Return an event whose data are the one line `text`, with line ends as those of `like`."""
    end = b"\r\n" if like.endswith(b"\r\n") else b"\n"
    return b"data: " + text + end + end


def _data_lines(event: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where the value of each `data` line starts, and the value."""
    for line in LINE.finditer(event):
        name, _, value = line[0].partition(b":")
        if name == b"data":
            space = value.startswith(b" ")
            yield line.end() - len(value) + space, value[space:]
