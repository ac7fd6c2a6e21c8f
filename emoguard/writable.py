"""Checks that a file could be written, without writing it."""

from __future__ import annotations

import os
from pathlib import Path

from emoguard.errors import EmoGuardError


def check_writable(path: str | Path) -> None:
    """Raise unless this process could put a file at `path`, or write the one that is there.

    Raises:
        EmoGuardError: naming the folder that is missing, or what may not be written.

    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise EmoGuardError(f"{path} cannot be written: there is no folder {folder}: make it")
    if path.exists() and not path.is_file():
        raise EmoGuardError(f"{path} cannot be written: it is no file")
    # Files are replaced and rotated: that takes the right to write into the folder as well.
    for place, mode in ((folder, os.W_OK | os.X_OK), (path, os.W_OK)):
        if place.exists() and not os.access(place, mode):
            raise EmoGuardError(f"{path} cannot be written: no permission to write {place}")
