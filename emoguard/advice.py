"""Builds the commands that errors, logs and reports advise, so that they work as printed."""

from __future__ import annotations

import shlex

SUFFIX = ".safetensors"
"""Suffix of a probe file."""


def fit_command(model: str = "MODEL") -> str:
    """Return the command that makes a probe for a model without one."""
    return _line("fit", model=model, out=f"PROBE{SUFFIX}")


def calibrate_command(
    model: str = "MODEL",
    probe: str = "PROBE",
    quantisation: str = "",
    runtime: str = "",
    *,
    realign: bool = False,
) -> str:
    """Return the command that calibrates a probe on a model file.

    `probe` is a file or a shipped name. The result lies beside the file, under a name with the
    `quantisation`: the same name would take up the answers of another model. `runtime` is named
    where it is not the usual one of the file, whose calibration does not fit another's. `realign`
    only moves its zero and scale.
    """
    stem = probe.removesuffix(SUFFIX)
    out = f"{stem}-{quantisation or 'calibrated'}{SUFFIX}"
    named = {"runtime": runtime} if runtime else {}
    line = _line("calibrate", model=model, **named, probe=probe, out=out)
    return f"{line} --realign" if realign else line


def baseline_command(log: str = "AUDIT_LOG", out: str = "BASELINE") -> str:
    """Return the command that freezes a traffic baseline from an audit log."""
    return f"emoguard baseline {shlex.quote(log)} --out {shlex.quote(out)}"


def _line(verb: str, **options: str) -> str:
    return shlex.join(["emoguard", verb, *(p for n, v in options.items() for p in (f"--{n}", v))])
