"""Reads and writes probe files: safetensors with one JSON entry, read as if they were hostile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from emoguard import jsontext, keptfile, regularfile
from emoguard.errors import EmoGuardError
from emoguard.probe.calibration import Calibration
from emoguard.probe.certificate import Curve
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.probe import Probe
from emoguard.probe.witness import Witness

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "emoguard-probe-1"
MAX_FILE_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 4 * 2**20
LONGEST_NAME = 1000
"""Characters of a text."""
CALIBRATION = {"location": 1, "scale": 1, "means": 2, "norms": 1, "limits": 3}
"""The arrays of a calibration and their dimensions."""
CURVE = {"levels": 1, "counts": 2, "squares": 2}
"""The arrays of its crossings."""


def save(path: str | Path, probe: Probe, calibrations: Iterable[Calibration] = ()) -> None:
    """Write a probe and its calibrations. The file appears whole or not at all.

    Raises:
        EmoGuardError: if `load` could not read it again, or the file cannot be written.

    """
    _write(Path(path), encode(probe, calibrations))


def encode(probe: Probe, calibrations: Iterable[Calibration] = ()) -> bytes:
    """Return the bytes of a probe file; `loads` reads them again.

    Raises:
        EmoGuardError: when it could not.

    """
    tensors: dict[str, NDArray[Any]] = {
        "read": probe.read,
        "steer": probe.steer,
        "centre": probe.centre,
        "weights": probe.weights,
        "witness.token_ids": probe.witness.token_ids,
        # Nearest-of-three needs no more than half precision, and it is most of the file.
        "witness.residuals": probe.witness.residuals.astype(np.float16),
    }
    described = []
    for index, calibration in enumerate(calibrations):
        for name in CALIBRATION:
            tensors[f"calibration.{index}.{name}"] = getattr(calibration, name)
        for name in CURVE if calibration.curve else ():
            tensors[f"calibration.{index}.{name}"] = getattr(calibration.curve, name)
        described.append(
            {
                "identity": dataclasses.asdict(calibration.identity),
                "responses": calibration.responses,
                "tokens": calibration.tokens,
                "context": dict(calibration.context),
                "created": calibration.created,
                "cautions": list(calibration.cautions),
                "crossings": _described(calibration.curve),
            }
        )
    meta = {
        "format": FORMAT,
        "name": probe.name,
        "labels": probe.labels,
        "axes": probe.axes,
        "layers": probe.layers,
        "architecture": probe.architecture,
        "model_layers": probe.model_layers,
        "recipe": dict(probe.recipe),
        "card": dict(probe.card),
        "calibrations": described,
    }
    try:
        described_as = json.dumps(meta, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EmoGuardError(f"recipe and card must be plain JSON data: {error}") from error
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    blob = save_tensors(whole, {"emoguard": described_as})
    loads(blob)  # nothing is written that could not be read again
    return blob


def _described(curve: Curve | None) -> dict[str, Any] | None:
    if curve is None:
        return None
    names = ("window", "hysteresis", "positions", "responses")
    return {name: getattr(curve, name) for name in names}


def _write(path: Path, blob: bytes) -> None:
    try:
        keptfile.replace(path, blob)
    except OSError as error:
        raise EmoGuardError(f"probe file {path} cannot be written: {error.strerror}") from error


def load(path: str | Path) -> tuple[Probe, list[Calibration]]:
    """Read a probe file.

    Raises:
        EmoGuardError: for anything that is not a sound probe file; nothing else is raised.

    """
    try:
        blob = regularfile.read(path, MAX_FILE_BYTES)
    except OSError as error:
        raise EmoGuardError(f"probe file {path!s} cannot be read: {error.strerror}") from error
    try:
        return loads(blob)
    except EmoGuardError as error:
        raise EmoGuardError(f"probe file {path}: {error}") from error


def loads(blob: bytes) -> tuple[Probe, list[Calibration]]:
    """Read a probe file's bytes; see `load`."""
    meta = _metadata(blob)
    try:
        tensors = load_tensors(blob)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise EmoGuardError(
            f"its tensors cannot be read ({error!s:.200}): copy it again"
        ) from error
    try:
        probe = _probe(meta, tensors, hashlib.sha256(blob).hexdigest()[:8])
        calibrations = [_calibration(i, m, tensors) for i, m in enumerate(meta["calibrations"])]
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise EmoGuardError(
            f"its description is not one of a probe ({type(error).__name__}: {error!s:.200}): "
            "make it with emoguard fit"
        ) from error
    for calibration in calibrations:
        calibration.check_fits(len(probe.labels), len(probe.layers))
    return probe, calibrations


def _metadata(blob: bytes) -> dict[str, Any]:
    """Return the JSON entry after checking every size, before any tensor is touched."""
    if len(blob) > MAX_FILE_BYTES:
        raise EmoGuardError(
            f"it is larger than {MAX_FILE_BYTES >> 20} MiB, as no probe is: give the probe, not "
            "the weights of a model"
        )
    if len(blob) < 8:
        raise EmoGuardError(
            "it is too short for a safetensors file: it is cut off or no probe file"
        )
    (size,) = struct.unpack("<Q", blob[:8])
    if size > min(MAX_HEADER_BYTES, len(blob) - 8):
        raise EmoGuardError(
            f"its header says {size} bytes, at most {MAX_HEADER_BYTES} and no more than the file "
            "are allowed: it is cut off or no probe file"
        )
    try:
        header = jsontext.parse(blob[8 : 8 + size])
        meta = jsontext.parse(header["__metadata__"]["emoguard"])
        version = meta["format"]
    except (EmoGuardError, LookupError, TypeError, AttributeError) as error:
        raise EmoGuardError(
            f"it holds no EmoGuard description ({type(error).__name__}): give a file that emoguard "
            "fit wrote, not the weights of a model"
        ) from error
    if version != FORMAT:
        raise EmoGuardError(f"wanted format {FORMAT}, got {_short(version)}: update emoguard")
    return cast("dict[str, Any]", meta)


def _probe(meta: Mapping[str, Any], tensors: Mapping[str, Any], digest: str) -> Probe:
    witness = Witness(
        _array(tensors, "witness.token_ids", np.int64, 1),
        _array(tensors, "witness.residuals", np.float16, 4).astype(np.float32),
    )
    return Probe(
        name=f"{_name(meta['name']).split('@')[0]}@{digest}",
        labels=_texts(meta["labels"]),
        layers=tuple(_count(n) for n in meta["layers"]),
        read=_array(tensors, "read", np.float32, 3),
        steer=_array(tensors, "steer", np.float32, 3),
        centre=_array(tensors, "centre", np.float32, 2),
        weights=_array(tensors, "weights", np.float32, 1),
        witness=witness,
        architecture=_text(meta["architecture"]),
        model_layers=_count(meta["model_layers"]),
        axes=_texts(meta["axes"]),
        recipe=dict(meta["recipe"]),
        card=dict(meta["card"]),
    )


def _calibration(index: int, meta: Mapping[str, Any], tensors: Mapping[str, Any]) -> Calibration:
    identity = dict(meta["identity"])
    identity["adapters"] = _texts(identity["adapters"])
    # Older files, whose identities did not cover all tensors, have no content.
    for name in ("name", "architecture", "quantisation", "weights", "template", "content"):
        _text(identity.setdefault(name, "") if name == "content" else identity[name])
    for name in ("layers", "hidden"):
        _count(identity[name])
    arrays = {
        name: _array(tensors, f"calibration.{index}.{name}", np.float32, rank)
        for name, rank in CALIBRATION.items()
    }
    return Calibration(
        identity=ModelIdentity(**identity),
        responses=_count(meta["responses"]),
        tokens=_count(meta["tokens"]),
        context={_text(k): _text(v) for k, v in meta["context"].items()},
        # Older files, made before certified alarms, have no such entries.
        curve=_curve(index, meta.get("crossings"), tensors),
        created=_number(meta.get("created", 0.0)),
        cautions=_texts(meta.get("cautions", [])),
        **arrays,
    )


def _curve(index: int, meta: Mapping[str, Any] | None, tensors: Mapping[str, Any]) -> Curve | None:
    if meta is None:
        return None
    return Curve(
        window=_count(meta["window"]),
        hysteresis=_number(meta["hysteresis"]),
        positions=_count(meta["positions"]),
        responses=_count(meta["responses"]),
        **{
            name: _array(tensors, f"calibration.{index}.{name}", np.float32, rank)
            for name, rank in CURVE.items()
        },
    )


def _array(tensors: Mapping[str, Any], name: str, dtype: Any, rank: int) -> NDArray[Any]:
    array = tensors[name]
    if array.dtype != dtype or array.ndim != rank:
        raise EmoGuardError(
            f"{name} must be {np.dtype(dtype).name} with {rank} dimensions, "
            f"got {array.dtype} with {array.ndim}"
        )
    return np.asarray(array)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise TypeError(f"wanted a short text, got {_short(value)}")
    value.encode()  # refuses lone surrogates, which no log or metric could take
    return value


def _name(value: Any) -> str:
    """Return a text that terminals and metrics can show as it is: no control characters."""
    if not _text(value) or not value.isprintable():
        raise ValueError(f"wanted a printable name, got {_short(value)}")
    return str(value)


def check_name(text: str, what: str) -> None:
    """Raise if a probe file cannot hold a text as a name or label; `what` names its place.

    Raises:
        EmoGuardError: it is empty, too long, or holds characters that cannot be printed.

    """
    try:
        _name(text)
    except (TypeError, ValueError) as error:
        raise EmoGuardError(
            f"{what}: wanted 1 to {LONGEST_NAME:,} printable characters, got {_short(text)}: "
            "choose another name"
        ) from error


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) > 1000:
        raise TypeError(f"wanted a list of texts, got {_short(values)}")
    return tuple(_name(value) for value in values)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise TypeError(f"wanted a count, got {_short(value)}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"wanted a number, got {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    """Describe a value briefly: it may be deep, or megabytes long."""
    return ascii(value)[:40] if isinstance(value, str | int | float) else type(value).__name__
