"""Provides a speaker without a model: its responses are drawn from the seed and the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emoguard.runtime.speaker import Generated, Prompt
from emoguard.runtime.watched import Options
from emoguard.testing.fakes import FakeModel, FakeResiduals

TEMPLATE = 3
"""The first token of the chat template."""


class FakeSpeaker:
    """See `emoguard.runtime.speaker.Speaker`. Responses have `shortest` tokens at least.

    `prompts` are those that it was given, in order.
    """

    def __init__(
        self, door: FakeResiduals | None = None, *, has_template: bool = True, shortest: int = 10
    ) -> None:
        self.model = FakeModel(door)
        self.options: Options = {}
        self.has_template = has_template
        self.prompts: list[Prompt] = []
        self._shortest = shortest

    @property
    def door(self) -> FakeResiduals:
        """Return the offline door into the fake model."""
        return self.model.door

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return one token per word, after that of the template."""
        ids = self.door.tokenize(prompt.plain)
        return ids if prompt.raw or not self.has_template else [TEMPLATE, *ids]

    def answer(self, prompt: Prompt, tick: Callable[[], None]) -> str:
        """Return the words of a response; ticks once for each."""
        generated = self.respond(prompt)
        for _ in generated.token_ids:
            tick()
        return self.decode(generated.token_ids)

    def respond(self, prompt: Prompt) -> Generated:
        """Return random tokens: `shortest` to `max_tokens` of them."""
        self.prompts.append(prompt)
        prompt_ids = self.prompt_ids(prompt)
        rng = np.random.default_rng([prompt.seed, *prompt_ids])
        length = rng.integers(min(self._shortest, prompt.max_tokens), prompt.max_tokens + 1)
        return Generated(prompt_ids, rng.integers(4, 500, length).tolist())

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return one word per token."""
        return " ".join(f"w{token}" for token in token_ids)
