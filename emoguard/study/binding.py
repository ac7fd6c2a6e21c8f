"""Digests what the records of a study depend on: changed, they would answer another question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from emoguard.fit.corpora import neutral_prompts
from emoguard.study import items, questions
from emoguard.study.directions import TEXTS
from emoguard.study.personas import NEUTRAL, PERSONAS
from emoguard.study.questions import FILES
from emoguard.study.wordings import PILOT, STUDY
from emoguard.validate.human import families

if TYPE_CHECKING:
    from emoguard.guard import Guard
    from emoguard.probe.identity import ModelIdentity
    from emoguard.study.protocol import Protocol


def bound_to(
    protocol: Protocol,
    guard: Guard,
    identity: ModelIdentity,
    runtime: str,
    *,
    data: Path | None = None,
    embeddings: str | Path | None = None,
) -> dict[str, Any]:
    """Return the dependencies of a study's records; `guard` is the probe as it was given.

    `data` and `embeddings` are folders, whose content counts and not their place.
    """
    return {
        "protocol": protocol.digest,
        "model": identity.digest,
        "runtime": runtime,
        "data": _data_digest(protocol, data),
        "steering": _steering_digest(guard, identity),
        "items": _items_digest(protocol),
        "embeddings": _encoder_digest(embeddings),
    }


def _data_digest(protocol: Protocol, data: Path | None) -> str:
    """Return the SHA-256 of the files in `data` that a study reads; "" without any."""
    if data is None:
        return ""
    names = {*FILES}
    if people := protocol.judges.people:
        names |= {people, str(PurePosixPath(people).with_name("labels.txt"))}
    return _files_digest(data, names)


def _steering_digest(guard: Guard, identity: ModelIdentity) -> str:
    """Return the SHA-256 of what a probe adds: no verdict and no read direction changes it."""
    probe, calibration = guard.probe, guard.calibration(identity)
    whole = hashlib.sha256(repr((probe.labels, probe.layers)).encode() + probe.steer.tobytes())
    if calibration is not None:
        whole.update(calibration.norms.tobytes() + calibration.limits.tobytes())
    return whole.hexdigest()


def _items_digest(protocol: Protocol) -> str:
    """Return the SHA-256 of the texts that come with EmoGuard: items, wordings, personas."""
    texts = {
        "premises": [items.premises(wordings=wordings) for wordings in (STUDY, PILOT)],
        "openings": [questions.ACCEPTS, questions.CORRECTS],
        "calibrating": questions.calibrating(),
        "prompts": items.prompts(),
        "tasks": items.tasks(),
        "personas": [NEUTRAL, *(PERSONAS.get(label) for label in protocol.labels)],
        "neutral prompts": neutral_prompts()[:TEXTS],
        "families": families(),
    }
    return hashlib.sha256(json.dumps(texts, default=asdict).encode()).hexdigest()


def _encoder_digest(folder: str | Path | None) -> str:
    """Return the SHA-256 of an encoder's configuration, tokenizer and weights; "" without any."""
    if folder is None:
        return ""
    weights = [each for kind in ("*.safetensors", "*.bin") for each in Path(folder).glob(kind)]
    return _files_digest(
        Path(folder),
        {"config.json", "tokenizer.json", "vocab.txt", *(each.name for each in weights)},
    )


def _files_digest(folder: Path, names: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of those files that exist."""
    whole = hashlib.sha256()
    for name in sorted(names):
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                whole.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
