"""Checks the inputs of a fit before any text is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.probe.artifact import check_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from emoguard.fit.corpora import Label, Text
    from emoguard.probe.residuals import Residuals


LEAST_NEUTRAL = 16
"""Neutral texts that a fit needs."""

HELD_OUT = 3
"""One topic in this many (or text, in a corpus without topics) is held out to choose layers."""

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
            label, one called valence or that no file can hold, layers that the model lacks, or no
            `layers` and topics from which none can be chosen.

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
    check_labels(labels)
    for label in labels:
        most = max(sum(t.label == label.name for t in corpus) for corpus in corpora)
        if most < 6:
            raise EmoGuardError(
                f"label {label.name} needs at least 6 texts in one corpus, got {most}: "
                f"texts with emotion {' or '.join(label.words)}"
            )
    if not layers:
        check_topics(corpora)


def check_labels(labels: Sequence[Label]) -> None:
    """Raise if no probe can have these labels.

    Raises:
        EmoGuardError: a single label, one called valence, or one that no file can hold.

    """
    for label in labels:
        check_name(label.name, "a label")
    if any(label.name == VALENCE for label in labels):
        raise EmoGuardError(
            f"{VALENCE} is the axis that is made from the labels: name it otherwise"
        )
    if len(labels) < 2:
        names = "".join(label.name for label in labels) or "none"
        raise EmoGuardError(f"a label is told apart from others, got {names}: name two at least")


def check_topics(corpora: Sequence[Sequence[Text]]) -> None:
    """Raise if layers cannot be chosen: on held-out texts no label could be told from another.

    Raises:
        EmoGuardError: no label has texts beside others' both to fit on and held out.

    """
    fitted: set[str] = set()
    tested: set[str] = set()
    for texts in corpora:
        names = np.array([text.label for text in texts], np.str_)
        out = held_out([text.topic for text in texts])
        for known, part in ((fitted, names[~out]), (tested, names[out])):
            present = set(part.tolist())
            if len(present) > 1:
                known.update(present)
    if not fitted & tested:
        topics = len({text.topic for texts in corpora for text in texts})
        raise EmoGuardError(
            f"layers cannot be chosen: one topic in {HELD_OUT} is held out to test them, and "
            "wanted a label with texts beside another's both of these topics and of the rest, got "
            f"none in {topics:,} topics: give every label texts of the same topics, or name the "
            "layers by --layers"
        )


def held_out(topics: ArrayLike) -> NDArray[np.bool_]:
    """Return a mask of the texts of these topics that are held out to choose layers, (texts,)."""
    topics = np.asarray(topics, np.str_)
    every, numbers = np.unique(topics, return_inverse=True)
    if len(every) < HELD_OUT:
        numbers = np.arange(len(topics))
    return np.asarray(numbers % HELD_OUT == 0)
