"""Classifies the effect of a dose on a text's form: surgical, repetitive or broken.

Judged on texts of one dose against unsteered ones after the same prompts, under the unsteered
model. Language is judged by its script: a text that leaves the Latin alphabet is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from emoguard.study.judges import coherence

Regime = Literal["surgical", "repetitive", "broken"]

SURGICAL_RATIO = 1.3
"""Largest perplexity ratio of a text like the model's own."""

BROKEN_RATIO = 3.0
"""Smallest perplexity ratio of a broken text."""

MORE_REPETITION = 0.05
"""Allowed excess of repeated word triples over unsteered texts, as a share."""

MOST_FOREIGN = 0.1
"""Allowed excess of letters of another script over unsteered texts, as a share."""


@dataclass(frozen=True)
class Reading:
    """The form of texts at one dose, compared with unsteered ones."""

    ratio: float
    """Perplexity under the unsteered model, over that of its own texts."""
    repetition: float
    """Share of repeated word triples, more than unsteered."""
    distinct: float
    """Share of distinct words, more than unsteered."""
    foreign: float
    """Share of letters outside the Latin script, more than unsteered."""

    @property
    def regime(self) -> Regime:
        """Return the regime.

        A loop is easy for a model to predict, so repetition is checked before perplexity.
        """
        if self.foreign > MOST_FOREIGN or self.ratio > BROKEN_RATIO:
            return "broken"
        if self.repetition > MORE_REPETITION:
            return "repetitive"
        return "surgical" if self.ratio <= SURGICAL_RATIO else "broken"


def read(steered: Sequence[tuple[str, float]], plain: Sequence[tuple[str, float]]) -> Reading:
    """Read texts, given with their mean negative log-likelihoods, against unsteered ones."""
    sides = []
    for texts in (steered, plain):
        signs = [coherence(text) for text, _ in texts]
        sides.append(
            np.array(
                [
                    np.mean([surprise for _, surprise in texts]),
                    np.mean([each.repetition for each in signs]),
                    np.mean([each.distinct for each in signs]),
                    np.mean([each.foreign for each in signs]),
                ]
            )
        )
    surprise, repetition, distinct, foreign = map(float, sides[0] - sides[1])
    return Reading(float(np.exp(surprise)), repetition, distinct, foreign)
