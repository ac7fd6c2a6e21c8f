"""What vLLM is held against: the same model in Transformers, read and steered by EmoGuard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import emoguard_transformers
import numpy as np
from numpy.typing import NDArray

import emoguard
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Request
from tests.plugins.vllm.engines import PROBE
from tests.support.models import load_hf, smollm2_gguf

UNUSED = 49151
"""A token that nothing is written with: a response goes on behind its end."""


class Truth:
    """SmolLM2 in Transformers, float32."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_hf(smollm2_gguf())
        self.door = emoguard_transformers.open_residuals(self.model, self.tokenizer)
        self.guard = Guard.load(PROBE)
        self.site = self.guard.site(self.door.identity)

    def rows(self, prompt: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return z (tokens, labels) of an unsteered response."""
        ids = [*prompt, *tokens[:-1]]
        residuals = self.door.residuals(ids, self.site.probe.layers)
        return self.site.readout.read(residuals[:, len(prompt) - 1 :])

    def steered(
        self, prompt: Sequence[int], tokens: int, plan: Any, bound: float = 0.1
    ) -> tuple[list[int], NDArray[np.float32], Any]:
        """Return token ids, z and receipt of a greedy steered response."""
        import torch

        policy = Policy.parse({"steering": {"max_dose_ratio": bound}})
        guard = Guard(self.guard.probe, self.guard.calibrations, policy)
        with emoguard.attach(self.model, guard, tokenizer=self.tokenizer) as watch:
            inputs = torch.tensor([list(prompt)])
            out = self.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=UNUSED,
                emoguard=Request(scores="tokens", plan=plan),
            )
            report = watch.reports[-1]
        z = np.array([token.z for token in report.tokens], np.float32)
        return out[0, len(prompt) :].tolist(), z, report.receipt
