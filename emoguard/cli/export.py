"""`emoguard export`: a steer direction as a llama.cpp control vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from emoguard.calibration import Calibration
from emoguard.cli.probes import open_probe
from emoguard.errors import EmoGuardError
from emoguard.probe import Probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

CEILING = 0.5
"""A larger dose than this would move a residual further than any policy may."""


@click.command(short_help="Write a llama.cpp control vector.")
@click.argument("probe")
@click.option("--label", required=True, help="Which direction.")
@click.option("--out", required=True, help="The file to write (.gguf).")
@click.option(
    "--dose",
    type=click.FloatRange(-CEILING, CEILING),
    default=0.05,
    show_default=True,
    help="Length at each layer as a share of the residual's length; negative steers away.",
)
def export(probe: str, label: str, out: str, dose: float) -> None:
    """Write a direction of PROBE as a llama.cpp control vector.

    Use it with llama-cli --control-vector FILE. llama.cpp adds it at every token without any bound.
    """
    found, calibrations, _ = open_probe(probe)
    vectors = control_vector(found, calibrations, label, dose)
    write(Path(out), vectors, found.architecture)
    layers = ", ".join(map(str, vectors))
    click.echo(f"Wrote {out}: {label} at layers {layers}, dose {dose:g} at each.")


def control_vector(
    probe: Probe, calibrations: list[Calibration], label: str, dose: float
) -> dict[int, NDArray[np.float32]]:
    """Return per layer the unit steer direction times reference norm times dose, shape (hidden,).

    Raises:
        EmoGuardError: unknown label, no calibration, or layer 0, which llama.cpp cannot steer.

    """
    (column,) = probe.indices([label])
    if not calibrations:
        raise EmoGuardError(
            f"a dose is a share of the residual's length, and probe {probe.name} has no "
            "calibration that says how long it is: make one with emoguard fit"
        )
    if probe.layers[0] == 0:
        raise EmoGuardError(
            f"probe {probe.name} steers at layer 0, where llama.cpp has no control vector: "
            "fit one at layers from 1 on"
        )
    lengths = calibrations[0].norms * np.float32(dose)
    return {
        layer: np.asarray(length * steer[column], np.float32)
        for layer, length, steer in zip(probe.layers, lengths, probe.steer, strict=True)
    }


def write(path: Path, vectors: dict[int, NDArray[np.float32]], architecture: str) -> None:
    """Write vectors by layer as a control-vector GGUF; `direction.N` acts on block N's output."""
    from gguf import GGUFWriter

    if path.suffix != ".gguf":
        raise EmoGuardError(f"--out must end in .gguf, got {path}")
    if not path.parent.is_dir():
        raise EmoGuardError(f"there is no folder {path.parent} to write {path.name} into")
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", architecture)
    writer.add_uint32("controlvector.layer_count", len(vectors))
    for layer, vector in vectors.items():
        writer.add_tensor(f"direction.{layer}", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
