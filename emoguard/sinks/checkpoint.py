"""Keeps the state of a monitor in a small JSON file across restarts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoguard import jsontext, regularfile
from emoguard.errors import EmoGuardError
from emoguard.writable import check_writable

if TYPE_CHECKING:
    from emoguard.records import Alert

log = logging.getLogger("emoguard")

LARGEST = 2**20
"""Bytes; the state of a hundred labels has a few kilobytes."""


class Checkpoint:
    """One file; `bound` is what the state depends on, such as labels and limits, None for anything.

    Without a path nothing is kept. A file of more than `largest` bytes is none of ours.
    """

    def __init__(
        self, path: str | Path | None, bound: Mapping[str, Any] | None, largest: int = LARGEST
    ) -> None:
        self._path = Path(path) if path is not None else None
        self._bound = None if bound is None else json.loads(json.dumps(dict(bound)))
        self._largest = largest
        self._logged = False

    def check(self) -> None:
        """Raise if the state could not be loaded or saved; leaves nothing behind.

        Raises:
            EmoGuardError: saying why.

        """
        if self._path is not None:
            check_writable(self._path)
            self.load()

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, None if there is none with this binding.

        Raises:
            EmoGuardError: the file cannot be read, or is no checkpoint.

        """
        if self._path is None:
            return None
        try:
            data = regularfile.read(self._path, self._largest)
            saved = jsontext.parse(data, largest=self._largest)
            bound, state = saved["bound"], saved["state"]
        except FileNotFoundError:
            return None
        except (EmoGuardError, OSError, LookupError, TypeError) as error:
            raise self.broken(error) from error
        if self._bound not in (None, bound):
            log.warning(
                "%s was kept under other labels or limits, another baseline or version: "
                "starting afresh",
                self._path,
            )
            return None
        if not isinstance(state, dict):
            raise self.broken(TypeError("no state"))
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state by `state`; the file is whole at every moment.

        Raises:
            OSError: it cannot be written.

        """
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.part{os.getpid()}")
        part.write_text(json.dumps({"bound": self._bound, "state": dict(state)}), encoding="utf-8")
        part.replace(self._path)

    def keep(self, state: Mapping[str, Any], alerts: Sequence[Alert]) -> None:
        """Save the state that `alerts` came of; a file that cannot be written costs none of them.

        Raises:
            OSError: it cannot be written, and there is no alert to lose.

        """
        try:
            self.save(state)
        except OSError as error:
            if not alerts:
                raise
            if not self._logged:
                self._logged = True
                log.error(  # noqa: TRY400  (one sentence says it)
                    "%s: an alert goes out, the state is not kept (logged once): %r",
                    self._path,
                    error,
                )

    def broken(self, error: Exception) -> EmoGuardError:
        """Return the error for a state that cannot be used."""
        return EmoGuardError(
            f"checkpoint {self._path} cannot be used ({type(error).__name__}): delete it to start "
            "without what was seen before"
        )
