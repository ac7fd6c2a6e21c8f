"""Answers that show how a probe reads: to prompts that ask for a text about one of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoguard.fit import corpora
from emoguard.fit.answers import answered
from emoguard.fit.responses import Sampling
from emoguard.validate.onpolicy import prompts

if TYPE_CHECKING:
    from emoguard.fit.calibrating import Progress
    from emoguard.fit.corpora import Label
    from emoguard.runtime.speaker import Generated, Speaker

SAMPLING = Sampling(tokens=80)

FEW = 5
"""Examples of a quick fit."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and the label that its answer is about; None for a plain question."""

    prompt: str
    label: str | None


def asked(labels: Sequence[Label]) -> list[Asked]:
    """Return the prompts of examples: a plain question, and one per label that we have one for.

    The first `FEW` are what a quick fit shows: their labels are spread.
    """
    known: dict[str, str] = {}
    for prompt in prompts("benign"):
        known.setdefault(prompt.label, prompt.text)
    found = [Asked(known[each.name], each.name) for each in labels if each.name in known]
    step = max(1, len(found) // (FEW - 1))
    spread = found[::step][: FEW - 1]
    rest = [each for each in found if each not in spread]
    return [Asked(corpora.neutral_prompts()[corpora.CALIBRATING], None), *spread, *rest]


def answers(
    speaker: Speaker, wanted: Sequence[Asked], most: int, out: str, progress: Progress
) -> list[Generated]:
    """Let a model answer the first `most` of them, which are kept in a file beside `out`.

    Raises:
        EmoGuardError: a file of something else.

    """

    def enough(found: list[Generated]) -> bool:
        progress("examples", min(most, len(found)), most)
        return len(found) >= most

    texts = [each.prompt for each in wanted]
    return answered(speaker, texts, SAMPLING, f"{out}.examples.jsonl", enough)[:most]
