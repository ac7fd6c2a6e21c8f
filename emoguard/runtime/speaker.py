"""Defines the seam to a model opened by path: prompted in its chat template, it generates.

For commands, calibrations and studies. Applications open their own models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from emoguard.errors import EmoGuardError
from emoguard.probe.residuals import Residuals
from emoguard.records import Request
from emoguard.runtime.attention import sink_rows
from emoguard.runtime.watched import Options


@dataclass(frozen=True)
class Prompt:
    """A prompt and how it is answered; `temperature` 0 is greedy.

    `raw` leaves the chat template out; models without one are always prompted raw. All other
    sampling settings are the runtime's defaults. `earlier` are the turns before this one, each a
    user message and the model's answer.
    """

    text: str
    system: str = ""
    max_tokens: int = 200
    temperature: float = 0.7
    seed: int = 0
    raw: bool = False
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as chat templates take it."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.earlier:
            turns.append({"role": "user", "content": question})
            turns.append({"role": "assistant", "content": answer})
        return [*turns, {"role": "user", "content": self.text}]

    @property
    def plain(self) -> str:
        """Return the text that a model without chat template continues."""
        turns = [text for turn in self.earlier for text in turn]
        return "\n\n".join(filter(None, [self.system, *turns, self.text]))


@dataclass(frozen=True, slots=True)
class Generated:
    """One generated response as token ids, the end of generation left out."""

    prompt_ids: list[int]
    token_ids: list[int]

    def residuals(self, door: Residuals, layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the residuals a report averages over, float32 (layers, rows, hidden).

        As in live generation each token's row is the residual it was chosen from, and rows read at
        an attention sink are left out.
        """
        start = len(self.prompt_ids) - 1 + sink_rows(self.prompt_ids, self.token_ids)
        return door.residuals(self.prompt_ids + self.token_ids[:-1], layers)[:, start:]


class Speaker(Protocol):
    """A model that can be prompted in words."""

    model: Any
    """The object that `attach` takes."""
    options: Options
    """The options of `attach` for it."""
    has_template: bool
    """Whether the model has a chat template, and so was trained to follow instructions."""

    @property
    def door(self) -> Residuals:
        """Return the offline door into the model."""
        ...

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt, in the chat template unless it is raw."""
        ...

    def answer(self, prompt: Prompt, tick: Callable[[], None]) -> str:
        """Answer as an application would; `tick` is called about once per token meanwhile.

        Raises:
            ValueError: the runtime refuses the prompt.

        """
        ...

    def respond(self, prompt: Prompt) -> Generated:
        """Respond from an empty cache: the result does not depend on earlier responses."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        ...


@runtime_checkable
class GroupSpeaker(Protocol):
    """An optional capability of a speaker: several responses at once, faster than in turn."""

    @property
    def together(self) -> int:
        """Return how many prompts to give at a time."""
        ...

    def respond_together(self, prompts: Sequence[Prompt]) -> list[Generated]:
        """Respond to prompts alike but for text and seed; the first one's seed may be for all."""
        ...


@runtime_checkable
class BatchSpeaker(Protocol):
    """An optional capability of a speaker: many sequences at once, each with its request."""

    def batch(
        self,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        *,
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        exactly: bool = False,
    ) -> list[list[int]]:
        """Generate from prompts of token ids in one batch, shorter ones padded; return token ids.

        Sampling is from the whole vocabulary. `exactly` forbids an end before `tokens` tokens.
        """
        ...

    def surprise(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Return the mean negative log-likelihood per token of `after`, unsteered; 0 of nothing."""
        ...


class Opener(Protocol):
    """The part of a plug-in that opens models by path, beside `Plugin`.

    Everything but `open_speaker` works without the runtime installed, and does not load it.
    """

    FORMAT: str
    """The format it opens, in words, with an article."""
    BATCHES: bool
    """Whether its speakers are `BatchSpeaker`."""

    def opens(self, path: Path) -> bool:
        """Return whether a model of this format lies at `path`."""
        ...

    def hint(self, path: Path) -> str:
        """Return advice on a path that no plug-in opens, "" without any."""
        ...

    def open_speaker(self, path: Path, threads: int | None = None) -> Speaker:
        """Open a model; `threads` is for runtimes that take a number. Nothing is downloaded.

        Raises:
            EmoGuardError, ImportError, ValueError, OSError, RuntimeError: it cannot be opened.

        """
        ...


def answer(speaker: Speaker, prompt: Prompt, tick: Callable[[], None] = lambda: None) -> str:
    """Generate and return the answer; see `Speaker.answer`.

    Raises:
        EmoGuardError: the runtime refuses the prompt (it is longer than the context, say).

    """
    try:
        return speaker.answer(prompt, tick)
    except ValueError as error:
        raise EmoGuardError(f"the model does not take this prompt: {error}") from error
