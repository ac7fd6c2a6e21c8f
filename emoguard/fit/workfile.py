"""Work files of slow commands: records are kept as they come, so that none is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from emoguard.errors import EmoGuardError

Record = TypeVar("Record")


class WorkFile(Generic[Record]):
    """Records in JSON lines after one line that says of what `kind` they are, and whose.

    `bound` is what they depend on; `parse` makes a record of what a line holds, and raises
    `ValueError`, `LookupError` or `TypeError` on anything else. A line that a killed process left
    half written is dropped; everything before it stays.

    Raises:
        EmoGuardError: the file is none, cannot be written, or is bound to something else.

    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        bound: Mapping[str, Any],
        parse: Callable[[Any], Record],
    ) -> None:
        self.path = Path(path)
        self.records: list[Record] = []
        self._kind, self._parse = kind, parse
        head = f'{{"emoguard":"{kind}",'.encode()
        try:
            whole = self.path.read_bytes() if self.path.exists() else b""
            # A line counts once its newline is there.
            kept, _, _ = whole.rpartition(b"\n")
            lines = kept.split(b"\n") if kept else []
            if not head.startswith(whole[: len(head)]):
                raise self._foreign()
            if lines:
                self._read(lines, bound)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(len(kept) + 1 if kept else 0)
                file.seek(0, 2)
                if not kept:
                    file.write(_line({"emoguard": kind, "bound": dict(bound)}))
        except OSError as error:
            raise EmoGuardError(f"{self.path} cannot be used: {error.strerror}") from error

    def append(self, data: Mapping[str, Any]) -> None:
        """Keep one more record, given as its line holds it."""
        try:
            with self.path.open("ab") as file:
                file.write(_line(dict(data)))
        except OSError as error:
            raise EmoGuardError(f"{self.path} cannot be written: {error.strerror}") from error
        self.records.append(self._parse(data))

    def _read(self, lines: list[bytes], bound: Mapping[str, Any]) -> None:
        try:
            if json.loads(lines[0])["bound"] != dict(bound):
                raise EmoGuardError(
                    f"{self.path} holds {self._kind} of another model, or to other prompts, or "
                    "sampled otherwise: delete it, or write elsewhere"
                )
            self.records = [self._parse(json.loads(line)) for line in lines[1:]]
        except (ValueError, LookupError, TypeError) as error:
            raise self._foreign() from error

    def _foreign(self) -> EmoGuardError:
        return EmoGuardError(
            f"{self.path} is no file of {self._kind}: delete it, or write elsewhere"
        )


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
