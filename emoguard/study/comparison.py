"""Holds the records of a comparison of two models: the texts read by both, and the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.directions import neutral_components
from emoguard.fit.recipe import Recipe
from emoguard.validate.estimate import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.validate.reading import Texts


@dataclass(frozen=True, eq=False)
class Read:
    """One model's residuals of the texts; both sides of a comparison have the same texts.

    `neutral` are residuals of neutral texts, (texts, layers, hidden).
    """

    texts: Texts
    neutral: NDArray[np.float32]

    def states(self, layer: int, recipe: Recipe) -> NDArray[np.float64]:
        """Return residuals (texts, hidden) without the components of neutral texts."""
        out = neutral_components(self.neutral[:, layer], recipe.neutral_variance)
        states = self.texts.residuals[:, layer].astype(np.float64)
        return np.asarray(states - (states @ out.T) @ out)


@dataclass(frozen=True)
class Paired:
    """A statistic in models A and B, its difference, and the same statistic from the text alone.

    `chance` is the level without meaning: .5 for an AUROC, the 95th percentile of permutations for
    a correlation, None for other statistics.
    """

    a: Estimate
    b: Estimate
    difference: Estimate
    words: Estimate
    chance: float | None


@dataclass(frozen=True)
class Valence:
    """The place of valence among the principal components of the label directions.

    `rank` is the number, from 1, of the component that correlates most with the signs of valence,
    `strongest` its |r|, `first` that of the first component, `share` the share of the variance that
    the component of `rank` has.
    """

    rank: Paired
    strongest: Paired
    first: Paired
    share: Paired


@dataclass(frozen=True)
class ModelComparison:
    """The results on models `a` and `b`, on the same texts, with intervals over topics.

    `separation` is the AUROC of each target on topics held out, `macro` its mean over labels.
    `cosines` are those of A's and B's steer direction, by target, over `layers`; `overlap` is the
    mean squared cosine of the principal `angles` (degrees, ascending) between the subspaces of the
    labels, 1 for the same one. Their chance is the 95th percentile with the labels of B's texts
    shuffled within topics. `by_layer` is the mean cosine over labels at every layer, 0 first.

    These values are for directions as measured, and too low because of noise; the intervals are for
    the directions without noise, see `_basic`. `ceilings` show how much too low: the cosine that
    one direction in both A and B would have with independent noise, which is the geometric mean of
    both models' reliability (`geometry.stepped_up`, from halves of the topics). A and B read the
    same texts: part of the noise is shared, and a cosine may lie above its ceiling. NaN if topics
    are too few to be halved.
    """

    a: str
    b: str
    labels: tuple[str, ...]
    texts: int
    topics: int
    layers: tuple[int, ...]
    separation: dict[str, Paired]
    macro: Paired
    cosines: dict[str, Estimate]
    cosine: Estimate
    cosine_chance: float
    ceilings: dict[str, float]
    ceiling: float
    angles: tuple[Estimate, ...]
    overlap: Estimate
    overlap_chance: float
    valence: Valence | None
    by_layer: tuple[Estimate, ...]
    ceiling_by_layer: tuple[float, ...]
