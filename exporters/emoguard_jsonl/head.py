"""Notes the number and the MAC of a log's last line, beside the log or elsewhere.

Nothing in a log can show that lines at its end are missing. The note can, and the next line
continues from it. It is only as safe as its place: anyone who can write both can cut both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from emoguard import keptfile, regularfile
from emoguard.errors import EmoGuardError

FORM = re.compile(rb"([0-9]{1,18}) ([0-9a-f]{64})\s*")


class Head(NamedTuple):
    """Number and MAC of a line."""

    number: int
    mac: str

    def write(self, path: Path) -> None:
        """Write the note to a file, atomically; makes its folder.

        Raises:
            OSError: it cannot be written.

        """
        path.parent.mkdir(0o700, exist_ok=True)
        keptfile.replace(path, f"{self.number} {self.mac}\n")


def read_head(path: str | Path) -> Head:
    """Return the line that `Head.write` or `emoguard audit head` noted.

    Raises:
        FileNotFoundError: there is no such file.
        EmoGuardError: it cannot be read or holds something else.

    """
    try:
        match = FORM.fullmatch(regularfile.read(path, 1024))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EmoGuardError(f"{path} cannot be read: {error}") from error
    if match is None:
        raise EmoGuardError(
            f"{path}: wanted the line that emoguard audit head prints, got something else"
        )
    return Head(int(match[1]), match[2].decode("ascii"))
