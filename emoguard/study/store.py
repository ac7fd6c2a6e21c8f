"""Stores the records of a study, one per task, in compressed pieces and one still open.

A folder holds `piece-0001.jsonl.gz`, … and `open.jsonl`. A killed run loses at
most the tasks in hand; a piece is compressed when its time is over, and never written again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoguard import jsontext, keptfile
from emoguard.errors import EmoGuardError
from emoguard.fit.workfile import WorkFile, differences

OPEN = "open.jsonl"

PIECE = re.compile(r"piece-(\d+)\.jsonl\.gz")

LARGEST = 256 * 2**20
"""Bytes of a piece, unpacked."""


class Store:
    """The records of one study in `folder`, by key of their task.

    `bound` holds their dependencies: the digests of protocol, model file and probe, the runtime.
    No other object can use the open piece until this one is closed.

    Raises:
        EmoGuardError: the folder cannot be used, holds another study, or another command is using
            it.

    """

    def __init__(self, folder: str | Path, bound: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._bound = dict(bound)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmoGuardError(f"{self.folder} cannot be made: {error.strerror}") from error
        self.records: dict[str, dict[str, Any]] = {}
        self.pieces = sorted(self.folder.glob("piece-*.jsonl.gz"))
        for path in self.pieces:
            for record in _piece(path, self._bound):
                self.records[record["task"]] = record
        self._file = self._opened()
        for record in self._file.records:
            self.records[record["task"]] = record

    def __contains__(self, key: str) -> bool:
        return key in self.records

    @property
    def open_seconds(self) -> float:
        """Return the CPU seconds of the open piece so far."""
        return sum(float(record.get("seconds", 0)) for record in self._file.records)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; its "task" names it."""
        self._file.append(record)
        self.records[record["task"]] = dict(record)

    def close_piece(self) -> None:
        """Compress the open piece, if it has any record, and begin another."""
        if not self._file.records:
            return
        numbers = [int(name[1]) for each in self.pieces if (name := PIECE.fullmatch(each.name))]
        path = self.folder / f"piece-{max(numbers, default=0) + 1:04}.jsonl.gz"
        source = self.folder / OPEN
        try:
            # Without a time stamp the same records are the same bytes.
            with (
                keptfile.replacing(path) as part,
                part.open("wb") as raw,
                gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file,
            ):
                file.write(source.read_bytes())
            source.unlink()
        except OSError as error:
            raise EmoGuardError(f"{path} cannot be written: {error.strerror}") from error
        self.pieces.append(path)
        self._file.close()
        self._file = self._opened()

    def close(self) -> None:
        """Release the study for other commands. Idempotent."""
        self._file.close()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all records, in the order of their keys; of no measured time."""
        whole = hashlib.sha256()
        for key in sorted(self.records.keys() - {"plan"}):
            kept = {k: v for k, v in self.records[key].items() if k != "seconds"}
            whole.update(json.dumps(kept, sort_keys=True).encode())
        return whole.hexdigest()

    def _opened(self) -> WorkFile[dict[str, Any]]:
        return WorkFile(self.folder / OPEN, "study", self._bound, _record)


def _piece(path: Path, bound: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        head, *lines = _unpacked(path).splitlines()
        stored = dict(jsontext.parse(head)["bound"])
        records = [_record(jsontext.parse(line)) for line in lines]
    except OSError as error:
        raise EmoGuardError(f"{path} cannot be read: {error.strerror}") from error
    except (EmoGuardError, ValueError, LookupError, TypeError) as error:
        raise EmoGuardError(
            f"{path} is no piece of a study ({error!s:.100}): delete it, and its tasks run again"
        ) from error
    if differing := differences(stored, bound):
        raise EmoGuardError(
            f"{path} holds another study ({differing} differ): give --out another folder"
        )
    return records


def _unpacked(path: Path) -> bytes:
    """Return the content of a piece.

    Raises:
        OSError: it cannot be read. ValueError: it is broken or too large.

    """
    try:
        with gzip.open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{error}") from error
    if len(raw) > LARGEST:
        raise ValueError(f"wanted at most {LARGEST >> 20} MiB")
    return raw


def _record(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not isinstance(data.get("task"), str):
        raise TypeError("wanted a record of a task")
    return data
