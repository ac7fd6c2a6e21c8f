"""Collects a model's own responses to neutral prompts and measures a calibration on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit.readings import read_responses
from emoguard.probe.calibration import QUANTILES, Calibration
from emoguard.probe.crossing import HYSTERESIS, WINDOW
from emoguard.runtime.attention import sink_rows
from emoguard.runtime.speaker import Generated, GroupSpeaker, Prompt, Speaker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.probe import Probe
    from emoguard.probe.residuals import Residuals

SHORTEST = 8
"""Responses of fewer tokens are left out: too short for a response mean."""


@dataclass(frozen=True)
class Sampling:
    """The sampling of responses. A calibration is bound to it and to the model file."""

    tokens: int = 128
    """Most tokens of a response."""
    temperature: float = 0.7
    """0 takes the likeliest token; all other settings are the runtime's defaults."""
    system: str = ""
    """System prompt, empty for none."""
    language: str = "en"
    """Language of the prompts, as a BCP 47 tag; reported, never checked."""

    def context(self, template: str, prompts: Sequence[str]) -> dict[str, str]:
        """Return the context of a calibration: plain words, long texts as their SHA-256.

        `template` is the chat template's own hash, empty without one.
        """
        return {
            "language": self.language,
            "prompts": _digest("\n".join(prompts)),
            "system": _digest(self.system) if self.system else "",
            "temperature": f"{self.temperature:g}",
            "template": template,
            "tokens": str(self.tokens),
        }


def calibrate(
    door: Residuals,
    probe: Probe,
    generated: Sequence[Generated],
    *,
    context: dict[str, str] | None = None,
    window: int = WINDOW,
    hysteresis: float = HYSTERESIS,
    progress: Callable[[int], None] = lambda _: None,
    folder: str | Path | None = None,
    doubts: Sequence[str] = (),
) -> Calibration:
    """Read responses through `door` and summarise the probe's projections on them.

    Rows are those that reports average over: see `Generated.residuals`. The same responses may be
    read by several runtimes or quantisations of one model, which makes their z comparable. `window`
    and `hysteresis` are those of the alarms to certify; `doubts` become the calibration's cautions.
    Readings are saved in `folder` along the way.

    Raises:
        EmoGuardError: fewer than 8 responses of at least 8 tokens.

    """
    chosen = [each for each in generated if _rows(each) >= SHORTEST]
    if not chosen:
        raise EmoGuardError(
            f"wanted responses of at least {SHORTEST} tokens, got none among {len(generated)}: "
            "give other prompts"
        )
    readings = read_responses(door, probe, chosen, folder, progress)
    progress(len(generated))
    levels = np.linspace(0, 1, QUANTILES)
    return Calibration.measure(
        door.identity,
        readings.projections,
        np.median(readings.norms, axis=1),
        np.quantile(readings.along, levels, axis=1).transpose(1, 0, 2),
        context or {},
        window=window,
        hysteresis=hysteresis,
        cautions=doubts,
    )


def read_rows(
    door: Residuals, probe: Probe, generated: Sequence[Generated]
) -> list[NDArray[np.float32]]:
    """Return raw projections (tokens, labels) of the responses that are long enough."""
    return [
        probe.project(each.residuals(door, probe.layers))
        for each in generated
        if _rows(each) >= SHORTEST
    ]


def _rows(response: Generated) -> int:
    """Return the number of rows of a response, without those that only sink attention."""
    return len(response.token_ids) - sink_rows(response.prompt_ids, response.token_ids)


def responses(speaker: Speaker, prompts: Sequence[str], sampling: Sampling) -> Iterator[Generated]:
    """Let a model respond to prompts, the n-th with seed n."""
    return chain.from_iterable(groups(speaker, prompts, sampling))


def groups(
    speaker: Speaker, prompts: Sequence[str], sampling: Sampling, *, start: int = 0
) -> Iterator[list[Generated]]:
    """Yield responses to prompts from number `start` on, those that are made at once together.

    Groups are counted from the first prompt: what a prompt gets does not depend on `start`.
    """
    size = together(speaker)
    for first in range(start - start % size, len(prompts), size):
        group = respond(speaker, prompts[first : first + size], sampling, first)
        yield group[max(0, start - first) :]


def together(speaker: Speaker) -> int:
    """Return how many prompts a model responds to at once."""
    return speaker.together if isinstance(speaker, GroupSpeaker) else 1


def whole_groups(speaker: Speaker, wanted: int, done: int, most: int) -> int:
    """Return how many responses are made to have `wanted` of `most`, `done` of them before."""
    size = together(speaker)
    return 0 if wanted <= done else min(most, -(-wanted // size) * size) - done


def respond(
    speaker: Speaker, prompts: Sequence[str], sampling: Sampling, first: int = 0
) -> list[Generated]:
    """Let a model respond to prompts, at once if it can, in its chat template if it has one.

    The n-th has the seed `first` + n. A model without a chat template continues the first half of
    a prompt; there is then no system prompt.
    """
    texts, system = prompts, sampling.system
    if not speaker.has_template:
        texts, system = [first_half(prompt) for prompt in prompts], ""
    wanted = [
        Prompt(text, system, sampling.tokens, sampling.temperature, first + number)
        for number, text in enumerate(texts)
    ]
    if isinstance(speaker, GroupSpeaker):
        return speaker.respond_together(wanted)
    return [speaker.respond(prompt) for prompt in wanted]


def first_half(text: str) -> str:
    """Return the first half of a text's words: a prompt for a model without a chat template."""
    words = text.split()
    return " ".join(words[: max(4, len(words) // 2)])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
