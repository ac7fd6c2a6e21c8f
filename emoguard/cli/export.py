"""`emoguard export`: a steer direction as a llama.cpp control vector."""

from __future__ import annotations

from pathlib import Path

import click

from emoguard.cli.paths import check_out
from emoguard.cli.probes import open_probe
from emoguard.cli.screen import say
from emoguard.runtime import openers
from emoguard.steering.plan import CEILING


@click.command(short_help="Write a control vector.")
@click.argument("probe")
@click.option("--label", required=True, help="Which direction.")
@click.option("--out", required=True, help="The file to write.")
@click.option(
    "--dose",
    type=click.FloatRange(-CEILING, CEILING),
    default=0.05,
    show_default=True,
    help="As in a plan: share of the residual's length, all layers together; negative steers away.",
)
def export(probe: str, label: str, out: str, dose: float) -> None:
    """Write a direction of PROBE as a llama.cpp control vector.

    Use it with llama-cli --control-vector FILE. It adds the same as a plan's add with this dose,
    but llama.cpp adds it at every token, even of the prompt, and without a bound. The length of
    residuals comes from the probe's first calibration.
    """
    controlvector = openers.module("controlvector")
    check_out("--out", out, controlvector.SUFFIX)
    loaded, calibrations, _ = open_probe(probe)
    vectors = controlvector.control_vector(loaded, calibrations, label, dose)
    controlvector.write(Path(out), vectors, loaded.architecture)
    layers = ", ".join(map(str, vectors))
    identity = calibrations[0].identity
    say(
        f"Wrote {out}: {label} at layers {layers}, a dose of {dose:g} in all, "
        f"for residuals as long as those of {identity.name} ({identity.quantisation})."
    )
