"""Did a condition move the model? Asks what the text of its answers shows, never the probe."""

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
    """Return how well the text alone tells a label's answers from the control's, by label.

    It is the AUROC of the best detector in `TextOnly`, trained on `known`, neutral texts among
    them, with an interval that resamples questions. A label that no text shows did not move the
    model, or moved it unseen.
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
    found = {}
    for column, name in enumerate(names):
        mine = np.isin(spoken, (name, ""))
        if len(set(spoken[mine])) < 2:
            continue
        columns = np.stack([scores[each][mine, column] for each in TEXT_ONLY], axis=1)
        positive = np.repeat((spoken[mine] == name)[:, None], len(TEXT_ONLY), axis=1)
        sample = areas(columns, positive, weights[:, mine])
        found[name] = sample.estimate(int(np.nanargmax(sample.value)))
    return found
