"""Finds probe files: the shipped ones by name, others by path."""

from __future__ import annotations

from pathlib import Path

from emoguard.advice import calibrate_command
from emoguard.cli.paths import check_is_probe
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe.calibration import Calibration
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.probe import Probe
from emoguard.probe.shipped import load_probe, shipped_files
from emoguard.runtime.attach import shipped
from emoguard.runtime.openers import AUTO, recognise
from emoguard.runtime.speaker import Speaker


def open_probe(name: str) -> tuple[Probe, list[Calibration], int]:
    """Return a probe, its calibrations and the file's bytes, by shipped name or by path.

    Raises:
        EmoGuardError: there is no such probe, or the file is malformed.

    """
    here = shipped_files()
    if name not in here and Path(name).exists():
        check_is_probe(name)
    probe, calibrations = load_probe(name)
    size = len(here[name].read_bytes()) if name in here else Path(name).stat().st_size
    return probe, calibrations, size


def guard_for(speaker: Speaker, probe: str | None, path: str) -> Guard:
    """Return a guard with the named probe, else with the shipped one that fits the model at `path`.

    Raises:
        EmoGuardError: there is no such probe, or no shipped one fits.

    """
    return shipped(speaker.door, path) if probe is None else Guard.load(probe)


def calibrating(
    probe: Probe,
    source: str | None,
    identity: ModelIdentity,
    path: str,
    runtime: str = AUTO,
    *,
    realign: bool = False,
) -> str:
    """Return the command that calibrates `probe` on the model at `path`, opened by `runtime`.

    `source` is the probe's path; None for a shipped one, which has the name of its file.
    """
    return calibrate_command(
        path,
        source or probe.name.partition("@")[0],
        identity.quantisation,
        "" if runtime in (AUTO, recognise(path)) else runtime,
        realign=realign,
    )


def check_calibrated(
    guard: Guard,
    source: str | None,
    identity: ModelIdentity,
    path: str,
    runtime: str = AUTO,
) -> None:
    """Raise if the guard has no calibration of a model to steer; see `calibrating`.

    Raises:
        EmoGuardError: there is no calibration; the message has the command that makes one.

    """
    if guard.calibration(identity) is None:
        raise EmoGuardError(
            f"steering needs a calibration of exactly this model file, and {guard.probe.name} has "
            f"none of {identity.name} ({identity.quantisation}): make one with "
            f"{calibrating(guard.probe, source, identity, path, runtime)}"
        )


def coloured_label(guard: Guard, wanted: str | None) -> int:
    """Return the column of `wanted`; by default of the first contrast (valence), else the first.

    Raises:
        EmoGuardError: the guard does not read a label of that name.

    """
    if wanted is not None and wanted not in guard.labels:
        raise EmoGuardError(f"unknown label {wanted}: this probe has {', '.join(guard.labels)}")
    axes = [label for label in guard.labels if label in guard.probe.axes]
    return guard.labels.index(wanted or (axes or list(guard.labels))[0])
