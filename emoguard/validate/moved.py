"""Checks, from the text of its answers alone, whether a condition moved the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.textonly import TEXT_ONLY, TextOnly
from emoguard.validate.estimate import Estimate, areas, cluster_weights

if TYPE_CHECKING:
    from emoguard.fit.corpora import Label, Text
    from emoguard.fit.voiced import Question


def moved(
    labels: Sequence[Label],
    known: Sequence[Text],
    answers: Sequence[tuple[Question, str]],
) -> dict[str, Estimate]:
    """Return, by label, the AUROC with which the text separates its answers from the control's.

    It is that of the best detector in `TextOnly`, trained on `known`, which includes neutral texts;
    the interval resamples questions. A label at chance did not move the model, or moved it unseen.
    """
    names = [label.name for label in labels]
    detector = TextOnly(
        [text.text for text in known],
        np.array([text.label for text in known]),
        names,
        [label.valence for label in labels],
    )
    scores = detector.scores([text for _, text in answers])
    spoken = np.array([question.label for question, _ in answers])
    weights = cluster_weights(np.array([question.text for question, _ in answers]))
    shown = {}
    for column, name in enumerate(names):
        mine = np.isin(spoken, (name, ""))
        if len(set(spoken[mine])) < 2:
            continue
        columns = np.stack([scores[each][mine, column] for each in TEXT_ONLY], axis=1)
        positive = np.repeat((spoken[mine] == name)[:, None], len(TEXT_ONLY), axis=1)
        sample = areas(columns, positive, weights[:, mine])
        shown[name] = sample.estimate(int(np.nanargmax(sample.value)))
    return shown
