"""`emoguard export`: a steer direction as a llama.cpp control vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from emoguard import keptfile
from emoguard.cli.paths import check_out
from emoguard.cli.probes import open_probe
from emoguard.cli.screen import say
from emoguard.errors import EmoGuardError
from emoguard.probe.calibration import Calibration
from emoguard.probe.probe import Probe
from emoguard.steering.plan import CEILING, Plan
from emoguard.steering.prepare import prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray


@click.command(short_help="Write a llama.cpp control vector.")
@click.argument("probe")
@click.option("--label", required=True, help="Which direction.")
@click.option("--out", required=True, help="The file to write (.gguf).")
@click.option(
    "--dose",
    type=click.FloatRange(-CEILING, CEILING),
    default=0.05,
    show_default=True,
    help="As in a plan: share of the residual's length, all layers together; negative steers away.",
)
def export(probe: str, label: str, out: str, dose: float) -> None:
    """Write a direction of PROBE as a llama.cpp control vector.

    Use it with llama-cli --control-vector FILE. It adds what a plan's add with this dose does; but
    llama.cpp adds it at every token, the prompt's too, and without any bound. How long residuals
    are is taken from the probe's first calibration.
    """
    found, calibrations, _ = open_probe(probe)
    vectors = control_vector(found, calibrations, label, dose)
    write(Path(out), vectors, found.architecture)
    layers = ", ".join(map(str, vectors))
    identity = calibrations[0].identity
    say(
        f"Wrote {out}: {label} at layers {layers}, a dose of {dose:g} in all, "
        f"for residuals as long as those of {identity.name} ({identity.quantisation})."
    )


def control_vector(
    probe: Probe, calibrations: list[Calibration], label: str, dose: float
) -> dict[int, NDArray[np.float32]]:
    """Return per layer what a plan's `add` adds there, shape (hidden,), by the first calibration.

    Raises:
        EmoGuardError: unknown label, no calibration, or layer 0, which llama.cpp cannot steer.

    """
    calibration = calibrations[0] if calibrations else None
    steering = prepare(Plan(add={label: dose}), probe, calibration, CEILING)
    if steering.layers[0] == 0:
        raise EmoGuardError(
            f"probe {probe.name} steers at layer 0, where llama.cpp has no control vector: "
            "fit one at layers from 1 on"
        )
    return {each.layer: each.shift for each in steering.interventions}


def write(path: Path, vectors: dict[int, NDArray[np.float32]], architecture: str) -> None:
    """Write vectors by layer as a control-vector GGUF; `direction.N` acts on block N's output."""
    from gguf import GGUFWriter

    check_out("--out", path, ".gguf")
    try:
        with keptfile.replacing(path) as part:
            writer = GGUFWriter(part, "controlvector")
            writer.add_string("controlvector.model_hint", architecture)
            writer.add_uint32("controlvector.layer_count", len(vectors))
            for layer, vector in vectors.items():
                writer.add_tensor(f"direction.{layer}", vector)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise EmoGuardError(f"{path} cannot be written: {error.strerror}") from error
