"""Finds the plug-in that opens the model at a path."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from emoguard.errors import EmoGuardError
from emoguard.extras import PLUGINS, PREFIX
from emoguard.probe import artifact

if TYPE_CHECKING:
    from emoguard.runtime.speaker import Opener, Speaker

AUTO = "auto"
"""Stands for the plug-in whose format the path has."""


def plugins() -> dict[str, EntryPoint]:
    """Return the plug-ins for runtimes by short name: their package's without `emoguard_`."""
    points = sorted(entry_points(group=PLUGINS), key=lambda point: point.name)
    return {point.value.removeprefix(PREFIX): point for point in points}


def openers() -> dict[str, Opener]:
    """Return those plug-ins that open models by path, by short name."""
    modules = {name: importlib.import_module(point.value) for name, point in plugins().items()}
    return {
        name: cast("Opener", module)
        for name, module in modules.items()
        if hasattr(module, "open_speaker")
    }


def formats() -> str:
    """Return the formats that can be opened, in words."""
    return " or ".join(dict.fromkeys(opener.FORMAT for opener in openers().values()))


def recognise(path: str | Path) -> str:
    """Return the short name of the plug-in whose format the model at `path` has.

    Raises:
        EmoGuardError: no runtime reads this format; the message names those that are installed.

    """
    path = Path(path)
    known = openers()
    for name, opener in known.items():
        if opener.opens(path):
            return name
    advice = _advice(known.values(), path)
    # Path.exists and its like raise where a folder may not be searched, or a name is too long.
    if not os.path.exists(path):  # noqa: PTH110
        raise EmoGuardError(f"there is no model at {path}: {advice or f'give {formats()}'}")
    if not (os.path.isdir(path) or os.path.isfile(path)):  # noqa: PTH112, PTH113
        raise EmoGuardError(f"{path} is neither a file nor a folder: give {formats()}")
    if is_probe(path):
        advice = "it is a probe; give the model that it was made for"
    raise EmoGuardError(f"{path} is no model: {advice or f'give {formats()}'}")


def _advice(known: Iterable[Opener], path: Path) -> str:
    """Return the first advice on the path to give instead, "" where no plug-in has any."""
    for opener in known:
        try:
            if advice := opener.hint(path):
                return advice
        except OSError:  # it cannot look there
            continue
    return ""


def is_probe(path: Path) -> bool:
    """Return whether a sound probe file lies at `path`."""
    try:
        artifact.load(path)
    except EmoGuardError:
        return False
    return True


def batching(path: str | Path) -> str:
    """Return the short name of a plug-in that opens `path`, and whose speakers generate batches.

    It may convert a model of another's format.

    Raises:
        EmoGuardError: `path` is no model, or no plug-in generates batches.

    """
    usual, known = recognise(path), openers()
    able = [name for name, opener in known.items() if opener.BATCHES]
    if not able:
        raise EmoGuardError(f"no runtime here steers each row of a batch: {path} cannot be tested")
    return usual if usual in able else able[0]


def open_speaker(path: str | Path, runtime: str = AUTO, threads: int | None = None) -> Speaker:
    """Open the model at `path`.

    `runtime` is the short name of a plug-in; `auto` is the one whose format the path has.

    Raises:
        EmoGuardError: `path` is no model, or cannot be opened.
        ModuleNotFoundError: the runtime is not installed.

    """
    path, usual = Path(path), recognise(path)
    try:
        return openers()[usual if runtime == AUTO else runtime].open_speaker(path, threads)
    except ModuleNotFoundError:  # the command line says what to install
        raise
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        raise EmoGuardError(f"{path} cannot be opened as a model: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, and the next where it only leads to that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    whole = len(lines) > 1 and lines[0].endswith(":")
    return " ".join(lines[: 2 if whole else 1])[:300]


def module(name: str) -> ModuleType:
    """Return the module `name` of the one plug-in that has such a module.

    Raises:
        EmoGuardError: no plug-in has one, or several have.
        ModuleNotFoundError: the runtime is not installed.

    """
    packages = [
        point.value
        for point in plugins().values()
        if find_spec(point.value) and find_spec(f"{point.value}.{name}")
    ]
    if len(packages) != 1:
        raise EmoGuardError(
            f"wanted one plug-in with a module {name}, "
            f"got {', '.join(packages) or 'none'}: see `emoguard doctor` for the plug-ins installed"
        )
    return importlib.import_module(f"{packages[0]}.{name}")
