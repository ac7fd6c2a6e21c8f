"""Sets the size of a fit: all texts and responses, or a quick first part of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emoguard.fit.corpora import Text
from emoguard.fit.extraction import Portion
from emoguard.probe.certificate import ENOUGH_RESPONSES

QUICK_TEXTS = 18
"""Texts per label and corpus of a quick fit: judging holds out every fifth topic."""

QUICK_NEUTRAL = 24
"""Neutral texts per file of a quick fit."""

QUICK_RESPONSES = 40


@dataclass(frozen=True)
class Scope:
    """The number of texts per label and corpus, and of responses.

    A quick scope is the first part of a whole one: a quick fit can be finished later.
    """

    texts: int = 60
    responses: int = ENOUGH_RESPONSES
    is_quick: bool = False

    def quick(self) -> Scope:
        """Return the quick first part of this scope."""
        texts, responses = min(self.texts, QUICK_TEXTS), min(self.responses, QUICK_RESPONSES)
        return Scope(texts, responses, is_quick=True)

    def portion(self, texts: Sequence[Text]) -> Portion:
        """Return the portion of labelled texts to read first: for each label, those of a quick fit.

        `texts` are those of a whole fit; within a label, earlier ones are read first.
        """
        seen: dict[str, int] = {}
        first = []
        for number, text in enumerate(texts):
            seen[text.label] = seen.get(text.label, 0) + 1
            if seen[text.label] <= QUICK_TEXTS:
                first.append(number)
        return Portion(first, self.is_quick)

    def neutral_portion(self, files: Sequence[Sequence[Text]]) -> Portion:
        """Return the portion of neutral texts, file after file, to read first.

        It is spread over each file, whose texts are sorted by subject.
        """
        first: list[int] = []
        start = 0
        for texts in files:
            count = min(len(texts), QUICK_NEUTRAL)
            spread = np.linspace(0, len(texts) - 1, count) if count else np.empty(0)
            first += [start + int(n) for n in spread]
            start += len(texts)
        return Portion(first, self.is_quick)
