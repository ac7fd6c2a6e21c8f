"""Finds probe files: the shipped ones by name, others by path."""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from emoguard.advice import SUFFIX
from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import describe

if TYPE_CHECKING:
    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe


def shipped_files() -> dict[str, Traversable]:
    """Return the probe files that come with EmoGuard, by name without suffix, in order."""
    folder = files("emoguard") / "probes"
    entries = folder.iterdir() if folder.is_dir() else ()
    probes = {e.name.removesuffix(SUFFIX): e for e in entries if e.name.endswith(SUFFIX)}
    return dict(sorted(probes.items()))


def load_probe(name: str | os.PathLike[str]) -> tuple[Probe, list[Calibration]]:
    """Return a probe and its calibrations, by the name of a shipped one or by path.

    A `Path` is always a file, a text first a name.

    Raises:
        EmoGuardError: there is no such probe, or the file is malformed.

    """
    from emoguard.probe import artifact  # noqa: PLC0415  (safetensors is loaded with the first file)

    shipped = shipped_files()
    known = ", ".join(shipped) or "none"
    if isinstance(name, str) and name in shipped:
        return artifact.loads(shipped[name].read_bytes())
    if not isinstance(name, str | os.PathLike):
        raise EmoGuardError(
            f"probe: wanted a file or the name of a shipped probe ({known}), got {describe(name)}: "
            "a Probe that is loaded already goes into Guard(probe, calibrations)"
        )
    if not os.path.lexists(name):
        raise EmoGuardError(
            f"there is no probe {name!s:.200}: give a file, or one shipped here ({known})"
        )
    return artifact.load(Path(name))
