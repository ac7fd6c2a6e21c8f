"""Fits directions to residuals: differences of means, at layers chosen on held-out texts.

Read directions are the whitened differences; steer directions are the differences themselves,
without the components of neutral texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit import directions as d
from emoguard.fit.cautions import cautions
from emoguard.fit.corpora import Label
from emoguard.fit.extraction import SKIP
from emoguard.fit.requirements import VALENCE, held_out
from emoguard.probe.probe import Probe
from emoguard.probe.witness import Witness

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.residuals import Residuals


@dataclass(frozen=True)
class Recipe:
    """The parameters of a fit, kept in `Probe.recipe`."""

    whitened: bool = True
    """Whether read directions are whitened by the covariance within labels, or plain."""
    shrinkage: float = d.SHRINKAGE
    """Weight of the diagonal in that covariance, in [0, 1]."""
    neutral_variance: float = d.NEUTRAL_VARIANCE
    """Share of the variance of neutral texts that is taken out of steer directions, in [0, 1).
    Read directions keep it: whitened ones transfer better with it (see docs/evidence/probes.md)."""
    keep: int = 4
    """Layers to read, where none are named."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """One corpus after extraction.

    `residuals` are means over tokens, (texts, blocks, hidden), where index n of axis 1 is layer n;
    `labels` and `topics` have shape (texts,).
    """

    residuals: NDArray[np.float32]
    labels: NDArray[np.str_]
    topics: NDArray[np.str_]

    def held_out(self) -> NDArray[np.bool_]:
        """Return a mask of the texts held out to choose layers, (texts,)."""
        return held_out(self.topics)

    def at(self, layer: int, chosen: NDArray[np.bool_] | None = None) -> Part:
        """Return residuals (texts, hidden) at one layer and labels, of all texts or of `chosen`."""
        if chosen is None:
            return self.residuals[:, layer], self.labels
        return self.residuals[chosen, layer], self.labels[chosen]


Part = tuple["NDArray[np.float32]", "NDArray[np.str_]"]
"""Residuals of one layer, (texts, hidden), and labels, (texts,)."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Directions for `names` at `layers`, in float64.

    `read` and `steer` have shape (layers, names, hidden), `centre` (layers, hidden), `weights`
    (layers,), as in `Probe`. `read` is scaled so that the scores of each label have a standard
    deviation of 1 over the texts it was fitted on, each corpus counted alike: scores of different
    labels are comparable.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    read: NDArray[np.float64]
    steer: NDArray[np.float64]
    centre: NDArray[np.float64]
    weights: NDArray[np.float64]

    def scores(self, residuals: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the scores, (texts, names), of residuals (texts, blocks, hidden)."""
        total = np.zeros((len(residuals), len(self.names)))
        for n, layer in enumerate(self.layers):
            total += self.weights[n] * ((residuals[:, layer] - self.centre[n]) @ self.read[n].T)
        return total


def fit_directions(
    corpora: Sequence[Pooled],
    neutral: NDArray[np.floating],
    names: Sequence[str],
    recipe: Recipe | None = None,
    layers: Sequence[int] = (),
) -> Fitted:
    """Fit directions on corpora that count alike at any size.

    `neutral` holds residuals of neutral texts, (texts, blocks, hidden). A name without texts gets
    zeros. Without `layers` the best by `layer_scores` are used, judged only on texts held out of
    these corpora.
    """
    recipe = recipe or Recipe()
    if not layers:
        layers = best_layers(layer_scores(corpora, neutral, names, recipe), recipe.keep)
    parts = [_at_layer([p.at(n) for p in corpora], neutral[:, n], names, recipe) for n in layers]
    read, steer, centre = (np.array(each) for each in zip(*parts, strict=True))
    weights = np.full(len(layers), 1 / len(layers))
    fitted = Fitted(tuple(names), tuple(layers), read, steer, centre, weights)
    scale = np.sqrt(np.mean([fitted.scores(p.residuals).var(axis=0) for p in corpora], axis=0))
    return dataclasses.replace(fitted, read=read / np.where(scale > 0, scale, 1.0)[:, None])


def layer_scores(
    corpora: Sequence[Pooled],
    neutral: NDArray[np.floating],
    names: Sequence[str],
    recipe: Recipe | None = None,
) -> NDArray[np.float64]:
    """Return the AUROC of each name at each layer on held-out texts, (blocks, names).

    The mean over corpora; NaN for a name that no corpus can test.
    """
    recipe = recipe or Recipe()
    return np.array(
        [
            _held_out_auroc(corpora, neutral[:, layer], layer, names, recipe)
            for layer in range(neutral.shape[1])
        ]
    )


def best_layers(scores: NDArray[np.float64], keep: int) -> tuple[int, ...]:
    """Return the `keep` layers of the highest mean score, in order; layer 0 is not among them.

    Raises:
        EmoGuardError: no name has a score.

    """
    tested = np.isfinite(scores).all(axis=0)
    if not tested.any():
        raise EmoGuardError(
            "layers cannot be chosen: no label has texts both to fit on and of topics held out; "
            "give texts of more topics for every label, or name the layers"
        )
    order = 1 + np.argsort(-scores[1:, tested].mean(axis=1), kind="stable")
    return tuple(sorted(order[:keep].tolist()))


def make(
    door: Residuals,
    pools: Sequence[Pooled],
    plain: NDArray[np.float32],
    labels: Sequence[Label],
    *,
    name: str,
    recipe: Recipe | None = None,
    layers: Sequence[int] = (),
    skip: int = SKIP,
    sources: Sequence[str] = (),
    leaks: Sequence[str] = (),
    is_provisional: bool = False,
) -> Probe:
    """Make a probe from residuals of corpora and neutral texts.

    `plain` are the residuals of neutral texts, (texts, blocks, hidden); `leaks` are cautions about
    the texts themselves. `layers` fixes the layers to read.
    """
    recipe = recipe or Recipe()
    names = [label.name for label in labels]
    scores = layer_scores(pools, plain, names, recipe)
    fitted = fit_directions(pools, plain, names, recipe, layers or best_layers(scores, recipe.keep))
    axes = (VALENCE,) if has_valence(labels) else ()
    read_rows, steer_rows = with_valence(fitted, labels) if axes else (fitted.read, fitted.steer)
    doubts = cautions(
        [pool.labels for pool in pools], names, scores, fitted.layers, are_named=bool(layers)
    )
    return Probe(
        name=name,
        labels=(*names, *axes),
        layers=fitted.layers,
        read=read_rows.astype(np.float32),
        steer=steer_rows.astype(np.float32),
        centre=fitted.centre.astype(np.float32),
        weights=fitted.weights.astype(np.float32),
        witness=Witness.record(door, fitted.layers),
        architecture=door.identity.architecture,
        model_layers=door.identity.layers,
        axes=axes,
        recipe={
            "steer": "mean difference, neutral components removed",
            "read": "mean difference, whitened by the covariance within labels",
            **dataclasses.asdict(recipe),
            "skip": skip,
            "layers": list(layers),
            "labels": {
                label.name: {"words": list(label.words)}
                | ({"valence": label.valence} if label.valence else {})
                for label in labels
            },
            "texts": [len(pool.labels) for pool in pools],
            "neutral_texts": len(plain),
            "sources": list(sources),
            "fitted_on": door.identity.name,
            "quantisation": door.identity.quantisation,
            "provisional": is_provisional,
        },
        card=_card(scores, fitted.layers, names) | {"cautions": [*doubts, *leaks]},
    )


def has_valence(labels: Sequence[Label]) -> bool:
    """Return whether there are labels of both signs, as the valence axis needs."""
    return {-1, 1} <= {label.valence for label in labels}


def with_valence(
    fitted: Fitted, labels: Sequence[Label]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return read and steer directions (layers, names + 1, hidden) with the valence axis last.

    It points from the mean of the negative labels to that of the positive ones.
    """
    signs = np.array([label.valence for label in labels], float)
    axis = [d.axis(rows, signs) for rows in fitted.read]
    steer = [d.unit(d.axis(rows, signs)) for rows in fitted.steer]
    return (
        np.concatenate([fitted.read, np.array(axis)[:, None]], axis=1),
        np.concatenate([fitted.steer, np.array(steer)[:, None]], axis=1),
    )


def _at_layer(
    parts: Sequence[Part], neutral: NDArray[np.floating], names: Sequence[str], recipe: Recipe
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return read directions, unit steer directions (names, hidden) and centre of one layer."""
    steer = _combined(parts, names, d.neutral_components(neutral, recipe.neutral_variance))
    read = steer
    if recipe.whitened:
        whole = _combined(parts, names, np.zeros((0, neutral.shape[-1])))
        read = d.whiten(whole, d.within_covariance(parts, recipe.shrinkage))
    centre = np.mean([residuals.mean(axis=0, dtype=np.float64) for residuals, _ in parts], axis=0)
    # Residuals grow with depth: each layer is weighted by the spread of its own projections.
    spread = np.mean([((residuals - centre) @ read.T).std() for residuals, _ in parts])
    return read / (spread or 1.0), steer, centre


def _combined(
    parts: Sequence[Part], names: Sequence[str], components: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return unit directions (names, hidden); corpora of any size count alike."""
    per_corpus = [d.mean_differences(x, y, names, components) for x, y in parts]
    return d.unit(np.sum(per_corpus, axis=0))


def _held_out_auroc(
    corpora: Sequence[Pooled],
    neutral: NDArray[np.floating],
    layer: int,
    names: Sequence[str],
    recipe: Recipe,
) -> NDArray[np.float64]:
    """Return the AUROC of each name on held-out texts, averaged over corpora, (names,)."""
    read, _, _ = _at_layer([p.at(layer, ~p.held_out()) for p in corpora], neutral, names, recipe)
    areas = np.full((len(corpora), len(names)), np.nan)
    for row, corpus in zip(areas, corpora, strict=True):
        residuals, labels = corpus.at(layer, corpus.held_out())
        for index, name in enumerate(names):
            positive = labels == name
            # No direction: none of the texts it would be fitted on has this label.
            if positive.any() and not positive.all() and read[index].any():
                row[index] = d.auroc(residuals @ read[index], positive)
    tested = np.isfinite(areas).sum(axis=0)
    return np.where(tested, np.nansum(areas, axis=0) / np.maximum(tested, 1), np.nan)


def _card(
    scores: NDArray[np.float64], layers: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    def mean(each: NDArray[np.float64]) -> float | None:
        known = each[np.isfinite(each)]
        return round(float(known.mean()), 3) if len(known) else None

    return {
        "status": "not yet validated: run emoguard validate",
        "auroc_chance": 0.5,
        "held_out_auroc": {
            name: mean(column) for name, column in zip(names, scores[list(layers)].T, strict=True)
        },
        "layer_auroc": {str(layer): mean(row) for layer, row in enumerate(scores)},
    }
