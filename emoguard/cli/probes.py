"""Finds probe files: the shipped ones by name, others by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emoguard.calibration import Calibration
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe import Probe
from emoguard.registry import find, shipped
from emoguard.shipped import load_probe, shipped_files


def open_probe(name: str) -> tuple[Probe, list[Calibration], int]:
    """Return a probe, its calibrations and the file's bytes, by shipped name or by path.

    Raises:
        EmoGuardError: there is none, or it is no sound probe file.

    """
    probe, calibrations = load_probe(name)
    here = shipped_files()
    size = len(here[name].read_bytes()) if name in here else Path(name).stat().st_size
    return probe, calibrations, size


def guard_for(model: Any, options: dict[str, Any], probe: str | None) -> Guard:
    """Return a guard with the named probe, else with the shipped one that fits `model`."""
    if probe is not None:
        return Guard.load(probe)
    plugin, inner = find(model)
    return shipped(plugin.open_residuals(inner, **options))


def coloured_label(guard: Guard, wanted: str | None) -> int:
    """Return the column of `wanted`, by default of the first contrast (valence), else of the first.

    Raises:
        EmoGuardError: the guard does not read a label of that name.

    """
    if wanted is not None and wanted not in guard.labels:
        raise EmoGuardError(f"unknown label {wanted}: this probe has {', '.join(guard.labels)}")
    axes = [label for label in guard.labels if label in guard.probe.axes]
    return guard.labels.index(wanted or (axes or list(guard.labels))[0])
