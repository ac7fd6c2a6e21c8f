"""Identifies a model file, to which a calibration belongs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path


def model_name(path: str | os.PathLike[str]) -> str:
    """Return the name of a model by its folder.

    In the cache of the Hugging Face hub, `models--OWNER--NAME/snapshots/COMMIT`, it is NAME.
    """
    parts = Path(path).parts
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].rpartition("--")[2]
    return Path(path).name


@dataclass(frozen=True)
class ModelIdentity:
    """One model file as one runtime holds it.

    `weights` is a SHA-256 over the first 64 KiB of a few named tensors, `template` one over the
    chat template (empty without one). `adapters` are the active ones, by content and scale, not by
    name or path (`3f0c…*0.5`). `content` is a SHA-256 over a mark of every base tensor (in torch
    a checksum; in llama.cpp its name, type, size and three windows of 4 KiB): it shows changes that
    `weights` misses, such as an adapter merged into attention alone. Older calibrations have none,
    and stay valid for all files of their `weights`.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    quantisation: str
    weights: str
    template: str = ""
    adapters: tuple[str, ...] = ()
    content: str = ""

    @property
    def digest(self) -> str:
        """Sixteen hex digits that differ if anything but the name differs."""
        fields = dataclasses.asdict(self)
        fields.pop("name")
        if not self.content:  # an older calibration keeps its digest
            fields.pop("content")
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def matches(self, other: ModelIdentity) -> bool:
        """Return whether both are the same file; a field unknown to one side makes no difference.

        A Transformers model does not know its chat template, its tokenizer does; an old
        calibration does not know the content.
        """
        ours, theirs = (dataclasses.replace(s, template="", content="") for s in (self, other))
        pairs = (self.template, other.template), (self.content, other.content)
        return ours.digest == theirs.digest and all(
            mine == its or not (mine and its) for mine, its in pairs
        )
