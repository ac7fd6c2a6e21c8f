"""Finds reasons to doubt a new probe in how it was made; `fit` prints them, the card keeps them.

They are not verdicts: those come from `emoguard validate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 30
"""Fewer texts of a label than this give a caution: a third of them chooses the layers."""

LOW = 0.6
"""A mean AUROC on held-out texts below this gives a caution; chance is .5."""


def cautions(
    labels: Sequence[Iterable[str]],
    names: Sequence[str],
    scores: NDArray[np.float64],
    layers: Sequence[int],
    *,
    are_named: bool,
) -> list[str]:
    """Return one sentence for each reason to doubt a probe.

    `labels` are those of the texts, by corpus; `scores` are the AUROC of each of `names` at each
    layer, (blocks, names), NaN where untested; `are_named` if the user chose the `layers`.
    """
    sentences = (
        _few_texts(labels, names),
        None if are_named else _at_the_edge(layers, len(scores)),
        _like_chance(scores[list(layers)]),
    )
    return [sentence for sentence in sentences if sentence]


def _few_texts(labels: Sequence[Iterable[str]], names: Sequence[str]) -> str | None:
    counts = Counter(chain.from_iterable(labels))
    few = [f"{name} {counts[name]}" for name in names if counts[name] < FEW]
    if not few:
        return None
    return (
        f"few texts ({', '.join(few)}; {FEW} a label are few already): other texts could give "
        "other directions and other layers; give more of them"
    )


def _at_the_edge(layers: Sequence[int], blocks: int) -> str | None:
    """Warn if chosen layers are the first or last candidates; layer 0 is never chosen."""
    if len(layers) >= blocks - 1 or not {1, blocks - 1} & set(layers):
        return None
    return (
        f"layers {', '.join(map(str, layers))} were chosen, at the edge of 1 to {blocks - 1}, as "
        "happens where held-out texts hardly tell layers apart; give more texts, or name the layers"
    )


def _like_chance(scores: NDArray[np.float64]) -> str | None:
    known = scores[np.isfinite(scores)]
    if not len(known) or known.mean() >= LOW:
        return None
    return (
        f"on held-out texts labels are told apart little better than by chance (mean AUROC "
        f"{known.mean():.2f}, chance .50)"
    )
