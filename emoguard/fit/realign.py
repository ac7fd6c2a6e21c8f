"""Moves a calibration's zero and scale to a changed model, if the probe's directions still hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from emoguard.advice import fit_command
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.directions import auroc
from emoguard.fit.extraction import SKIP, pool, readable

if TYPE_CHECKING:
    from emoguard.probe.calibration import Calibration
    from emoguard.probe.probe import Probe
    from emoguard.probe.residuals import Residuals

RESPONSES = 48
"""Number of answers that zero and scale are measured on."""

TEXTS = 6
"""Texts per label that the directions are tested on."""

LEAST = 0.7
"""Mean AUROC over labels at which directions still hold: also the threshold of a usable label."""


def check_directions(
    door: Residuals, probe: Probe, progress: Callable[[int, int], None] = lambda *_: None
) -> float:
    """Return the mean AUROC of the directions of `probe` on the package's own texts in a model.

    Raises:
        EmoGuardError: the directions do not hold, or none of these texts has labels of the probe.

    """
    known = corpora.recorded_labels(probe.recipe)
    names = [label.name for label in known if label.name in probe.labels]
    try:
        texts = corpora.read(corpora.own_letters(), known)
    except EmoGuardError as error:
        raise EmoGuardError(
            f"no text of ours is about {', '.join(names)}, so that nothing tells whether these "
            "directions still hold: calibrate without --realign, or make the probe anew"
        ) from error
    texts = readable(door, corpora.balanced(texts, TEXTS))
    rows = pool(
        door,
        [text.text for text in texts],
        probe.layers,
        skip=int(probe.recipe.get("skip", SKIP)),
        progress=lambda done: progress(done, len(texts)),
    )
    scores = probe.project(rows.transpose(1, 0, 2))
    labels = np.array([text.label for text in texts])
    areas = [
        auroc(scores[:, probe.labels.index(name)], labels == name)
        for name in names
        if (labels == name).any() and not (labels == name).all()
    ]
    area = float(np.mean(areas)) if areas else float("nan")
    if not area >= LEAST:
        raise EmoGuardError(
            f"the directions of {probe.name} do not hold on this model any more: they tell "
            f"{len(texts)} texts apart with a mean AUROC of {area:.2f} (wanted {LEAST:.2f}, chance "
            f".50); make a new probe with {fit_command()}"
        )
    return area


def realigned(reference: Calibration, measured: Calibration) -> Calibration:
    """Return `measured`, of few answers, with the shape of the distribution from `reference`.

    Location, scale, norms and limits come from `measured`. Ranks need hundreds of answers: their
    quantiles, in units of z, stay as in `reference`. No alarm is certified; the cautions of
    `measured` stay.
    """
    doubt = (
        f"realigned on {measured.responses} answers: zero and scale were measured, ranks are those "
        "of another file, and no alarm is certified until emoguard calibrate has measured them"
    )
    return dataclasses.replace(
        measured, means=reference.means, curve=None, cautions=(*measured.cautions, doubt)
    )
