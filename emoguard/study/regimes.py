"""Classifies the effect of a dose on a text's form: surgical, repetitive or broken.

Judged on texts of one dose against unsteered ones after the same prompts, under the unsteered
model. Language is judged by its script: a text that leaves the Latin alphabet is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from emoguard.study.judges import coherence, coherent

if TYPE_CHECKING:
    from numpy.typing import NDArray

Regime = Literal["surgical", "repetitive", "broken"]

SURGICAL_RATIO = 1.3
"""Largest perplexity ratio of a text like the model's own."""

BROKEN_RATIO = 3.0
"""Smallest perplexity ratio of a broken text."""

MORE_REPETITION = 0.05
"""Allowed excess of repeated word triples over unsteered texts, as a share."""

MOST_FOREIGN = 0.1
"""Allowed excess of letters of another script over unsteered texts, as a share."""


MORE_FAILED = 0.1
"""Allowed excess of incoherent texts, empty ones among them, over unsteered texts, as a share.

One of the twelve answers of a pilot fails by chance; two in twelve do not.
"""


@dataclass(frozen=True)
class Reading:
    """The form of texts at one dose, compared with unsteered ones."""

    ratio: float | None
    """Perplexity under the unsteered model, over that of its own texts; empty ones have none.

    None if all texts of one side are empty.
    """
    repetition: float
    """Share of repeated word triples, more than unsteered."""
    distinct: float
    """Share of distinct words, more than unsteered."""
    foreign: float
    """Share of letters outside the Latin script, more than unsteered."""
    failed: float
    """Share of texts that are not `coherent`, more than unsteered."""

    @property
    def regime(self) -> Regime:
        """Return the regime.

        A loop is easy for a model to predict, so repetition is checked before perplexity. Loops
        also fail to be coherent, so it is checked before the share that failed, too.
        """
        if self.ratio is None or self.foreign > MOST_FOREIGN or self.ratio > BROKEN_RATIO:
            return "broken"
        if self.repetition > MORE_REPETITION:
            return "repetitive"
        if self.failed > MORE_FAILED or self.ratio > SURGICAL_RATIO:
            return "broken"
        return "surgical"


def read(steered: Sequence[tuple[str, float]], plain: Sequence[tuple[str, float]]) -> Reading:
    """Read texts, given with their mean negative log-likelihoods, against unsteered ones."""
    more = _form([text for text, _ in steered]) - _form([text for text, _ in plain])
    repetition, distinct, foreign, failed = map(float, more)
    surprises = [[s for text, s in texts if text.strip()] for texts in (steered, plain)]
    ratio = None
    if all(surprises):
        ratio = float(np.exp(np.mean(surprises[0]) - np.mean(surprises[1])))
    return Reading(ratio, repetition, distinct, foreign, failed)


def _form(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return means over texts: repetition, distinct words, foreign letters, and failures."""
    signs = [coherence(text) for text in texts]
    rows = [
        (each.repetition, each.distinct, each.foreign, not coherent(text, each))
        for each, text in zip(signs, texts, strict=True)
    ]
    return np.asarray(np.array(rows, np.float64).mean(axis=0))
