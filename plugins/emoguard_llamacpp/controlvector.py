"""Writes a steer direction as a llama.cpp control vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFWriter

from emoguard import keptfile
from emoguard.errors import EmoGuardError
from emoguard.probe.calibration import Calibration
from emoguard.probe.probe import Probe
from emoguard.steering.plan import CEILING, Plan
from emoguard.steering.prepare import prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIX = ".gguf"


def control_vector(
    probe: Probe, calibrations: list[Calibration], label: str, dose: float
) -> dict[int, NDArray[np.float32]]:
    """Return the shift of a plan's `add` per layer, shape (hidden,), by the first calibration.

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
    """Write vectors by layer as a control-vector GGUF; `direction.N` acts on block N's output.

    Raises:
        EmoGuardError: it cannot be written.

    """
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
