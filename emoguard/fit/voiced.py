"""Puts everyday questions after earlier turns in the voice of a label, for a corpus of own answers.

A small model that is asked to be desperate explains bicycle gears as usual, but it often continues
in the voice of its own earlier answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoguard.errors import EmoGuardError
from emoguard.runtime.speaker import Prompt

if TYPE_CHECKING:
    from emoguard.fit.corpora import Label, Text
    from emoguard.fit.writer import Key

EARLIER = 2
"""Number of earlier turns, each with a text of a corpus as the model's own answer."""


@dataclass(frozen=True)
class Question:
    """A request for one answer. `label` is empty for the control, which has neutral turns."""

    label: str
    text: str
    number: int
    earlier: tuple[tuple[str, str], ...]

    @property
    def key(self) -> Key:
        """Its key among the answers of a corpus."""
        return self.label, self.text, self.number

    @property
    def record(self) -> dict[str, str]:
        """Its fields in a corpus, without the text."""
        return {"emotion": self.label, "topic": self.text} if self.label else {"topic": self.text}

    def prompt(self, attempt: int) -> Prompt:
        """Return the question after its earlier turns."""
        return Prompt(self.text, max_tokens=160, earlier=self.earlier)


def voiced(
    labels: Sequence[Label],
    voices: Sequence[Text],
    neutral: Sequence[Text],
    questions: Sequence[str],
    each: int,
) -> list[Question]:
    """Return every question `each` times for the control and every label, in balanced order.

    An earlier turn asks about a topic, and a text of `voices` (of `neutral` for the control)
    answers it; each question has other texts.

    Raises:
        EmoGuardError: a label has fewer than `EARLIER` texts.

    """
    names = ("", *(label.name for label in labels))
    spoken = {name: [text for text in voices if text.label == name] for name in names[1:]}
    spoken[""] = list(neutral)
    for name, texts in spoken.items():
        if len(texts) < EARLIER:
            raise EmoGuardError(
                f"{name or 'neutral'}: wanted at least {EARLIER} texts as earlier turns in this "
                f"voice, got {len(texts)}: give a corpus that has them with --voices"
            )
    wanted = []
    for number in range(each):
        for place, question in enumerate(questions):
            for name in names:
                start = EARLIER * (number * len(questions) + place)
                texts = [spoken[name][(start + n) % len(spoken[name])] for n in range(EARLIER)]
                turns = tuple((f"Tell me about {text.topic}.", text.text) for text in texts)
                wanted.append(Question(name, question, number, turns))
    return wanted
