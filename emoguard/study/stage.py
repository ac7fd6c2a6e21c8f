"""Generates under plans, one per row of a batch, including random directions."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Request
from emoguard.runtime.attach import attach
from emoguard.runtime.speaker import BatchSpeaker, Prompt, Speaker
from emoguard.steering.plan import Plan
from emoguard.steering.policy import SteeringPolicy
from emoguard.study.directions import norms_for, with_directions
from emoguard.study.dose import Speak, Spoken
from emoguard.study.speech import dose_of, in_order

if TYPE_CHECKING:
    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe
    from emoguard.runtime.watch import Watch

ROWS = 128
"""Continuations made in one batch."""

TEMPERATURE = 0.7

ASK = "Tell me a short story."
"""The prompt of a model with a chat template; its answer begins with the opening."""


class SpeakerStage:
    """See `emoguard.study.dose.Stage`. Samples `tokens` tokens at most, at a temperature of .7.

    `speaker` is a `BatchSpeaker`, too. The seed of a batch comes from its prompt and its
    place: a second run gives the same texts.

    Raises:
        EmoGuardError: there is no calibration of this model file, or the speaker makes no batches.

    """

    def __init__(
        self, speaker: Speaker, guard: Guard, *, randoms: int = 99, tokens: int = 24
    ) -> None:
        identity = speaker.door.identity
        if not isinstance(speaker, BatchSpeaker):
            raise EmoGuardError(
                f"a dose takes a runtime with one plan per row of a batch, and that of "
                f"{identity.name} has none: open the model in another"
            )
        self.randoms = tuple(f"random-{n}" for n in range(randoms))
        self._probe, self._calibration = with_random_directions(
            guard.probe, norms_for(guard, identity), self.randoms
        )
        self._speaker: Speaker = speaker
        self._batch: BatchSpeaker = speaker
        self._tokens = tokens

    @contextmanager
    def bounded(self, bound: float) -> Iterator[Speak]:
        """Steer within `bound` in this block."""
        policy = Policy(
            labels=self._probe.labels[:1],  # readings are not used here
            steering=SteeringPolicy(max_dose_ratio=bound, on_fault="stop"),
        )
        guard = Guard(self._probe, [self._calibration], policy)
        with attach(self._speaker.model, guard, **self._speaker.options) as watch:
            yield functools.partial(self._speak, watch)

    def surprise(self, prompt: str, text: str) -> float:
        """Return the mean negative log-likelihood per token of `text` under the unsteered model."""
        after = self._speaker.door.tokenize(text, special=False)
        return self._batch.surprise(self._prompt_ids(prompt), after)

    def _speak(self, watch: Watch, prompt: str, plans: Sequence[Plan | None]) -> list[Spoken]:
        spoken: list[Spoken] = []
        for start in range(0, len(plans), ROWS):
            # Each batch draws its own noise: else its rows would share that of the batch before.
            seed = zlib.crc32(prompt.encode()) + start
            spoken += self._rows(watch, prompt, plans[start : start + ROWS], seed)
        return spoken

    def _rows(
        self, watch: Watch, prompt: str, plans: Sequence[Plan | None], seed: int
    ) -> list[Spoken]:
        prompts = [self._prompt_ids(prompt)] * len(plans)
        requests = [Request(plan=plan) for plan in plans]
        with watch.recording() as reports:
            rows = self._batch.batch(
                prompts, requests, tokens=self._tokens, temperature=TEMPERATURE, seed=seed
            )
        return [
            Spoken(self._speaker.decode(row), *dose_of(report, plan))
            for row, report, plan in zip(rows, in_order(requests, reports), plans, strict=True)
        ]

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Return the prompt of a continuation: the question, if there is one, and the opening."""
        if not self._speaker.has_template:
            return self._speaker.door.tokenize(prompt)
        opening = self._speaker.door.tokenize(prompt, special=False)
        return [*self._speaker.prompt_ids(Prompt(ASK)), *opening]


def with_random_directions(
    probe: Probe, calibration: Calibration, names: Sequence[str], seed: int = 0
) -> tuple[Probe, Calibration]:
    """Return the probe with random unit steer directions as further labels.

    A direction is drawn once, uniformly, and is the same at every layer: no layer then undoes the
    addition of another. A label's direction turns from layer to layer, so random ones
    move further in all at the same dose (figures: docs/evidence/steering.md), which makes it harder
    for a label to stand out.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(len(names), probe.hidden))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    layers = len(probe.layers)
    same = np.broadcast_to(drawn.astype(np.float32), (layers, *drawn.shape))
    return with_directions(probe, calibration, {name: same[:, n] for n, name in enumerate(names)})
