"""Checks the inputs of a fit before any text is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emoguard.errors import EmoGuardError
from emoguard.probe.artifact import check_name

if TYPE_CHECKING:
    from emoguard.fit.corpora import Label, Text
    from emoguard.probe.residuals import Residuals


LEAST_NEUTRAL = 16
"""Neutral texts that a fit needs."""

VALENCE = "valence"
"""Name of the axis computed from the labels' signs."""


def check(
    door: Residuals,
    corpora: Sequence[Sequence[Text]],
    neutral: Sequence[Text],
    labels: Sequence[Label],
    layers: Sequence[int],
) -> None:
    """Raise if no probe can be made from these inputs, before any text is read.

    Raises:
        EmoGuardError: too few neutral texts, a label without enough texts in any corpus, a single
            label, one called valence or that no file can hold, or layers that the model lacks.

    """
    if len(neutral) < LEAST_NEUTRAL:
        raise EmoGuardError(
            f"fitting needs at least {LEAST_NEUTRAL} neutral texts, got {len(neutral)}: give more "
            "by --neutral"
        )
    wrong = [n for n in layers if not 0 <= n < door.identity.layers - 1]
    if wrong:
        raise EmoGuardError(
            f"layers must lie in [0, {door.identity.layers - 2}] for {door.identity.name}, "
            f"got {wrong}: give others by --layers, or none for the best four"
        )
    for label in labels:
        check_name(label.name, "a label")
    if any(label.name == VALENCE for label in labels):
        raise EmoGuardError(
            f"{VALENCE} is the axis that is made from the labels: name it otherwise"
        )
    for label in labels:
        most = max(sum(t.label == label.name for t in corpus) for corpus in corpora)
        if most < 6:
            raise EmoGuardError(
                f"label {label.name} needs at least 6 texts in one corpus, got {most}: "
                f"texts with emotion {' or '.join(label.words)}"
            )
    if len(labels) < 2:
        raise EmoGuardError("a label is told apart from others: name two at least")
