"""A Transformers model that speaks under plans, one per row of a batch, random directions too."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.advice import calibrate_command
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Request
from emoguard.runtime.attach import attach, find
from emoguard.steering.plan import Plan
from emoguard.steering.policy import SteeringPolicy
from emoguard.study.directions import with_directions
from emoguard.study.dose import Speak, Spoken

if TYPE_CHECKING:
    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe
    from emoguard.runtime.watch import Watch

ROWS = 128
"""Continuations made in one batch."""

TEMPERATURE = 0.7

ASK = "Tell me a short story."
"""What a model with a chat template is asked; its answer begins with the opening."""


class TransformersStage:
    """See `emoguard.fit.dose.Stage`. Samples `tokens` tokens at most, at a temperature of .7.

    The seed of a batch is made of its prompt: a second run says the same.

    Raises:
        EmoGuardError: no calibration of this model file.

    """

    def __init__(
        self, model: Any, tokenizer: Any, guard: Guard, *, randoms: int = 99, tokens: int = 24
    ) -> None:
        plugin, self._model = find(model)
        identity = plugin.open_residuals(self._model, tokenizer=tokenizer).identity
        calibration = guard.calibration(identity)
        if calibration is None:
            raise EmoGuardError(
                f"a dose is a share of the reference norm, and {guard.probe.name} has no "
                f"calibration of {identity.name} ({identity.quantisation}): make one with "
                f"{calibrate_command()}"
            )
        self.randoms = tuple(f"random-{n}" for n in range(randoms))
        self._probe, self._calibration = with_random_directions(
            guard.probe, calibration, self.randoms
        )
        self._tokenizer = tokenizer
        self._tokens = tokens

    @contextmanager
    def bounded(self, bound: float) -> Iterator[Speak]:
        """Steer within `bound` meanwhile."""
        policy = Policy(
            labels=self._probe.labels[:1],  # reading is not what this is about
            steering=SteeringPolicy(max_dose_ratio=bound),
        )
        guard = Guard(self._probe, [self._calibration], policy)
        with attach(self._model, guard, tokenizer=self._tokenizer) as watch:
            yield functools.partial(self._speak, watch)

    def surprise(self, prompt: str, text: str) -> float:
        """Return the mean negative log-likelihood per token of `text` under the unsteered model."""
        import torch  # noqa: PLC0415  (only where a model is there)

        before = self._prompt_ids(prompt)
        after = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if not after:
            return 0.0
        ids = torch.tensor([before + after], device=self._model.device)
        with torch.no_grad():
            logits = self._model(ids).logits[0, len(before) - 1 : -1].float()
        chosen = torch.tensor(after, device=logits.device)
        return float(torch.nn.functional.cross_entropy(logits, chosen))

    def _speak(self, watch: Watch, prompt: str, plans: Sequence[Plan | None]) -> list[Spoken]:
        said: list[Spoken] = []
        for start in range(0, len(plans), ROWS):
            said += self._batch(watch, prompt, plans[start : start + ROWS])
        return said

    def _batch(self, watch: Watch, prompt: str, plans: Sequence[Plan | None]) -> list[Spoken]:
        import torch  # noqa: PLC0415

        torch.manual_seed(zlib.crc32(prompt.encode()))
        before = self._prompt_ids(prompt)
        ids = torch.tensor([before] * len(plans), device=self._model.device)
        end = self._tokenizer.pad_token_id
        with watch.recording() as reports:
            out = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=0,
                top_p=1.0,
                max_new_tokens=self._tokens,
                pad_token_id=self._tokenizer.eos_token_id if end is None else end,
                emoguard=[Request(plan=plan) for plan in plans],
            )
        texts = self._tokenizer.batch_decode(out[:, len(before) :], skip_special_tokens=True)
        receipts = [report.receipt for report in reports]
        return [
            Spoken(text)
            if receipt is None
            else Spoken(text, receipt.dose_median or 0.0, receipt.clipped / self._tokens)
            for text, receipt in zip(texts, receipts, strict=True)
        ]

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Return what comes before a continuation: a question, where one is asked, and opening."""
        if not self._tokenizer.chat_template:
            return list(self._tokenizer(prompt)["input_ids"])
        made = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": ASK}], add_generation_prompt=True, return_dict=True
        )
        said = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return [*made["input_ids"], *said]


def with_random_directions(
    probe: Probe, calibration: Calibration, names: Sequence[str], seed: int = 0
) -> tuple[Probe, Calibration]:
    """Return the probe with random unit steer directions as further labels.

    A direction is drawn once, uniformly, and is the same at every layer: what is added at one layer
    is then not undone at the next. A label's direction turns from layer to layer, so random ones
    come to a longer way in all at the same dose (the figures are in docs/steering.md), which makes
    it harder for a label to stand out.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(len(names), probe.hidden))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    layers = len(probe.layers)
    same = np.broadcast_to(drawn.astype(np.float32), (layers, *drawn.shape))
    return with_directions(probe, calibration, {name: same[:, n] for n, name in enumerate(names)})
