"""Checks the arguments of a guard at the call, with one sentence per error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import describe
from emoguard.probe.calibration import Calibration
from emoguard.probe.probe import Probe
from emoguard.sinks.protocols import Sink


def checked_probe(probe: Any) -> Probe:
    """Return a probe, or raise EmoGuardError for anything else."""
    if not isinstance(probe, Probe):
        raise EmoGuardError(
            f"probe: wanted a Probe, got {describe(probe)}: Guard.load opens a probe file, or "
            "a shipped probe by its name"
        )
    return probe


def checked_calibrations(calibrations: Iterable[Calibration]) -> tuple[Calibration, ...]:
    """Return calibrations, or raise EmoGuardError for anything else."""
    listed = tuple(calibrations) if isinstance(calibrations, Iterable) else None
    others = [each for each in listed or () if not isinstance(each, Calibration)]
    if listed is None or others:
        got = describe(calibrations if listed is None else others[0])
        raise EmoGuardError(
            f"calibrations: wanted a list of Calibration, got {got}: a policy goes into policy="
        )
    return listed


def checked_sinks(sinks: Iterable[Sink]) -> tuple[Sink, ...]:
    """Return sinks, or raise EmoGuardError for anything else."""
    if not isinstance(sinks, Iterable) or isinstance(sinks, str | Mapping):
        raise EmoGuardError(f"sinks: wanted a list of sinks, got {describe(sinks)}: write [sink]")
    listed = tuple(sinks)
    for index, sink in enumerate(listed):
        if isinstance(sink, type) or not callable(getattr(sink, "report", None)):
            kind = f"the class {sink.__name__}" if isinstance(sink, type) else describe(sink)
            raise EmoGuardError(
                f"sinks.{index}: wanted an object with a method report, got {kind}: sinks that a "
                "policy names are opened by open_guard"
            )
    return listed


def check_functions(**functions: Any) -> None:
    """Raise EmoGuardError for an argument that is neither None nor a function."""
    for name, function in functions.items():
        if not (function is None or callable(function)):
            raise EmoGuardError(f"{name}: wanted a function, got {describe(function)}")
