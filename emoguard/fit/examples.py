"""Makes example answers that show how a probe reads: to requests for texts about its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoguard.fit import corpora
from emoguard.fit.answers import answered
from emoguard.fit.answers import begun as answers_begun
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
class ExamplePrompt:
    """A prompt, and the label of the answer it asks for; None for a plain question."""

    prompt: str
    label: str | None


def example_prompts(labels: Sequence[Label]) -> list[ExamplePrompt]:
    """Return a plain question, and a prompt for each label that the package has one for.

    A quick fit shows the first `FEW`, whose labels are spread.
    """
    known: dict[str, str] = {}
    for prompt in prompts("benign"):
        known.setdefault(prompt.label, prompt.text)
    examples = [ExamplePrompt(known[each.name], each.name) for each in labels if each.name in known]
    step = max(1, len(examples) // (FEW - 1))
    spread = examples[::step][: FEW - 1]
    rest = [each for each in examples if each not in spread]
    return [ExamplePrompt(corpora.neutral_prompts()[corpora.CALIBRATING], None), *spread, *rest]


def answers(
    speaker: Speaker, wanted: Sequence[ExamplePrompt], most: int, out: str, progress: Progress
) -> list[Generated]:
    """Let a model answer the first `most` prompts; answers are kept in a file beside `out`.

    Raises:
        EmoGuardError: the file holds anything else.

    """

    def enough(answers: list[Generated]) -> bool:
        progress("examples", min(most, len(answers)), most)
        return len(answers) >= most

    return answered(speaker, _texts(wanted), SAMPLING, answer_file(out), enough)[:most]


def begun(speaker: Speaker, wanted: Sequence[ExamplePrompt], out: str) -> int:
    """Return the number of answers that an earlier run left beside `out`.

    Raises:
        EmoGuardError: the file there holds anything else.

    """
    return answers_begun(speaker, _texts(wanted), SAMPLING, answer_file(out))


def answer_file(out: str) -> str:
    """Return the path of the work file that holds the examples for the probe file `out`."""
    return f"{out}.examples.jsonl"


def _texts(wanted: Sequence[ExamplePrompt]) -> list[str]:
    return [each.prompt for each in wanted]
