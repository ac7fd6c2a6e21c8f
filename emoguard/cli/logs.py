"""The files of an audit log, and the reports in them."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any

from emoguard import reportlines
from emoguard.errors import EmoGuardError
from emoguard.records import Report


def reports(logs: Sequence[str]) -> Iterator[Report]:
    """Yield the reports in the `files` of `logs`."""
    return chain.from_iterable(map(reportlines.read, files(logs)))


def files(logs: Sequence[str]) -> list[Path]:
    """Return the files of one log, those rotated away from it included, or several in their order.

    Raises:
        EmoGuardError: there are none, or they cannot be read.

    """
    log = exporter()
    with readable():
        found = log.parts(logs[0]) if len(logs) == 1 else log.in_order(map(Path, logs))
    if not found:
        raise EmoGuardError(f"there is no audit log {logs[0]}")
    return list(found)


def exporter() -> Any:
    """Return the package of the audit log, found as everything outside the core is."""
    (point,) = entry_points(group="emoguard.exporters", name="jsonl")
    return importlib.import_module(point.module)


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Say in one sentence that a log cannot be read."""
    try:
        yield
    except OSError as error:
        raise EmoGuardError(f"the audit log cannot be read: {error}") from error
