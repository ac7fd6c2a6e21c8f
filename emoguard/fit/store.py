"""Keeps rows of numbers on disk, one per text, so that a killed process loses none of them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emoguard import jsontext, keptfile, regularfile
from emoguard.errors import EmoGuardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUND, ROWS, DONE = "bound.json", "rows.npy", "done.bin"
LOCK = f"{BOUND}.lock"

LARGEST = 2**24
"""Most rows of a store."""


class RowStore:
    """A folder with a float32 array of `shape`, whose first axis is rows, and a byte for each row.

    `bound` holds the dependencies of the rows, as JSON. Rows are written to the file, never through
    a mapping, so that memory does not grow with them. A row counts once its byte is set, after the
    row itself is on disk. No other object can use the folder until this one is closed.

    Raises:
        EmoGuardError: the folder cannot be used, holds anything else or rows with other
            dependencies, or another command is using it.

    """

    def __init__(
        self, folder: str | Path, bound: Mapping[str, Any], shape: tuple[int, ...]
    ) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._width = 4 * int(np.prod(shape[1:]))
        self._shape = shape
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                lock = keptfile.Lock(self.folder / BOUND)
                stack.callback(lock.release)
                self._bind({**bound, "shape": list(shape)}, shape)
                self.done = self._read_done()
                self._start = self._rows_start()
                self._rows_file, self._done_file = (
                    stack.enter_context((self.folder / name).open("r+b", buffering=0))
                    for name in (ROWS, DONE)
                )
                self._open = stack.pop_all()
        except keptfile.HeldError as error:
            raise EmoGuardError(f"the work folder {error}") from error
        except OSError as error:
            raise EmoGuardError(f"{self.folder} cannot be used: {error.strerror}") from error
        except ValueError as error:
            raise EmoGuardError(f"{self.folder} is damaged ({error}): delete it") from error

    def write(self, rows: Sequence[int], values: NDArray[np.float32]) -> None:
        """Write some rows, `values` (rows, …); they are on disk on return.

        Raises:
            EmoGuardError: the rows cannot be written.

        """
        try:
            for row, one in zip(rows, values, strict=True):
                data = np.ascontiguousarray(one, "<f4").data.cast("B")
                _put(self._rows_file, self._start + row * self._width, data)
            os.fsync(self._rows_file.fileno())
            for row in rows:
                _put(self._done_file, row, b"\1")
            os.fsync(self._done_file.fileno())
        except OSError as error:
            raise EmoGuardError(f"{self.folder} cannot be written: {error.strerror}") from error
        self.done[list(rows)] = True

    def rows(self) -> NDArray[np.float32]:
        """Return the whole array, mapped and read-only; missing rows are zero."""
        # Not np.load: it would evaluate the header, a Python literal; the shape is known anyway.
        return np.memmap(self.folder / ROWS, "<f4", "r", self._start, self._shape)

    def close(self) -> None:
        """Close the files and release the folder for other commands. Mapped arrays stay valid."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_done(self) -> NDArray[np.bool_]:
        count = self._shape[0]
        data = np.frombuffer(regularfile.read(self.folder / DONE, count), np.uint8)
        if len(data) != count or np.any(data > 1):
            raise ValueError(f"{DONE} has no byte for each of {count} rows")
        return data.astype(np.bool_)

    def _rows_start(self) -> int:
        """Return where the rows begin in their file, after checking its header and size."""
        wanted = io.BytesIO()
        described = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(wanted, described)
        header = wanted.getvalue()
        with regularfile.opened(self.folder / ROWS) as file:
            same = file.read(len(header)) == header
            size = file.seek(0, os.SEEK_END)
        if not same or size != len(header) + self._width * self._shape[0]:
            raise ValueError(f"{ROWS} has not the shape {self._shape}")
        return len(header)

    def _bind(self, bound: dict[str, Any], shape: tuple[int, ...]) -> None:
        if not (self.folder / BOUND).exists():
            self._create(bound, shape)
        else:
            _check_bound(self.folder, bound)

    def _create(self, bound: dict[str, Any], shape: tuple[int, ...]) -> None:
        other = sorted({p.name for p in self.folder.iterdir()} - {ROWS, DONE, LOCK})
        other = [name for name in other if not name.startswith(f"{BOUND}.part")]
        if other:
            raise EmoGuardError(
                f"{self.folder} holds {other[0]} and no residuals: name another folder"
            )
        # This writes only the header and the size: the file is sparse until its rows come.
        np.lib.format.open_memmap(self.folder / ROWS, mode="w+", dtype="<f4", shape=shape)
        (self.folder / DONE).write_bytes(bytes(shape[0]))
        for name in (ROWS, DONE):
            keptfile.sync(self.folder / name)
        # Last, and atomically: a folder with this file is complete.
        keptfile.replace(self.folder / BOUND, json.dumps(bound))


def check(folder: str | Path, bound: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Raise if a store is there that `RowStore` would refuse for what its rows depend on.

    Raises:
        EmoGuardError: it holds rows with other dependencies, or cannot be read.

    """
    folder = Path(os.path.realpath(folder))
    if not (folder / BOUND).exists():
        return
    try:
        _check_bound(folder, {**bound, "shape": list(shape)})
    except OSError as error:
        raise EmoGuardError(f"{folder} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise EmoGuardError(f"{folder} is damaged ({error}): delete it") from error


def rows_done(folder: str | Path) -> int:
    """Return the number of rows in a store, 0 if there is no store yet."""
    try:
        return regularfile.read(Path(folder) / DONE, LARGEST).count(b"\1")
    except OSError:
        return 0


def remove(folder: str | Path) -> None:
    """Delete the stores inside `folder`, and `folder` itself if nothing else is in it."""
    for place in [*(p for p in Path(folder).glob("*") if (p / BOUND).exists()), Path(folder)]:
        parts = [part.name for part in place.glob(f"{BOUND}.part*")]
        for name in (BOUND, LOCK, DONE, ROWS, *parts):
            (place / name).unlink(missing_ok=True)
        if place.exists() and not any(place.iterdir()):
            place.rmdir()


def _check_bound(folder: Path, bound: Mapping[str, Any]) -> None:
    try:
        stored = jsontext.parse(regularfile.read(folder / BOUND, jsontext.LARGEST))
    except EmoGuardError as error:
        raise ValueError(f"{BOUND}: {error}") from error
    if stored != bound:
        raise EmoGuardError(
            f"{folder} holds residuals of another model, of other texts, or pooled otherwise: "
            "delete it, or name another output"
        )


def _put(file: Any, start: int, data: bytes | memoryview) -> None:
    file.seek(start)
    # A full disk may accept only a part; the next call then raises.
    while data:
        data = data[file.write(data) :]
