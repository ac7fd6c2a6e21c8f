"""Which model file is this? A calibration belongs to exactly one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """One model file as one runtime holds it.

    `weights` is a SHA-256 over the first 64 KiB of a few named tensors, `template` one over the
    chat template (empty without one), `adapters` the active LoRA adapters.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    quantisation: str
    weights: str
    template: str = ""
    adapters: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Sixteen hex digits that differ when anything but the name differs."""
        fields = dataclasses.asdict(self)
        fields.pop("name")
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def matches(self, other: ModelIdentity) -> bool:
        """Return whether both are the same file; a template that one side lacks is no difference.

        A Transformers model does not know its chat template, its tokenizer does.
        """
        unknown = dataclasses.replace(self, template="").digest
        same = unknown == dataclasses.replace(other, template="").digest
        return same and (self.template == other.template or not (self.template and other.template))
