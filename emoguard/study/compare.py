"""Compares the label directions of two models of one family on the same texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit import geometry
from emoguard.fit.recipe import Recipe, best_layers, layer_scores
from emoguard.fit.textonly import TEXT_ONLY, counted
from emoguard.study.comparison import ModelComparison, Paired, Read, Valence
from emoguard.validate.estimate import Estimate, Sample
from emoguard.validate.judged import MODEL, Judged, Task, check_crossed, joined, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.identity import ModelIdentity
    from emoguard.validate.reading import Texts

FOLDS = 5

SHUFFLES = 200

LARGEST_CHANCE = 0.95
"""Chance is the value that this share of draws stays below."""


def compare(
    task: Task,
    a: Read,
    b: Read,
    *,
    layers: Sequence[int] = (),
    recipe: Recipe | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ModelComparison:
    """Compare two models that read the same texts.

    Without `layers`, the best by both models' mean score on held-out texts are used for both; for
    the separation they are chosen within each training part, so that no tested text has a say.
    `progress` gets the name of the next step.

    Raises:
        EmoGuardError: a label without enough texts, or layers the models lack.

    """
    check(task, a.texts, a.neutral.shape[1], layers)
    pair = _Pair(task, a, b, recipe or Recipe())
    progress("topics held out")
    judged = pair.held_out(layers)
    progress("layers")
    chosen = tuple(sorted(layers)) or pair.best_layers()
    progress("directions")
    known = (a.texts.labels, a.texts.clusters, task.names)
    weights, halves = geometry.all_and_resampled(*known), geometry.halves(*known)
    products = [pair.products(n, weights, halves) for n in range(a.neutral.shape[1])]
    every, split = zip(*products, strict=True)
    grams = np.mean([every[n] for n in chosen], axis=0)
    progress("chance")
    shuffled = pair.shuffled(chosen)
    cosines = _sample(_target_cosines(task, grams))
    ceilings = _ceilings(task, np.mean([split[n] for n in chosen], axis=0))
    principal = geometry.principal_cosines(grams)
    overlap = _sample((principal**2).mean(axis=1, keepdims=True))
    return ModelComparison(
        a=a.texts.name,
        b=b.texts.name,
        labels=task.names,
        texts=len(a.texts),
        topics=len(np.unique(a.texts.clusters)),
        layers=chosen,
        separation={target: _separation(judged, [n]) for n, target in enumerate(task.targets)},
        macro=_separation(judged, task.columns),
        cosines={target: _basic(cosines.estimate(n)) for n, target in enumerate(task.targets)},
        cosine=_basic(cosines.mean(task.columns)),
        cosine_chance=_most(geometry.cosines(shuffled)),
        ceilings=dict(zip(task.targets, map(float, ceilings), strict=True)),
        ceiling=float(ceilings[task.columns].mean()),
        angles=_angles(_sample(principal)),
        overlap=_basic(overlap.estimate(0), least=0.0),
        overlap_chance=_most((geometry.principal_cosines(shuffled) ** 2).mean(axis=1)),
        valence=_valence(task, a.texts, grams, weights),
        by_layer=tuple(
            _basic(_sample(geometry.cosines(each)).mean(task.columns)) for each in every
        ),
        ceiling_by_layer=tuple(float(_ceilings(task, each)[task.columns].mean()) for each in split),
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two models that read the same texts, and the statistics of both."""

    task: Task
    a: Read
    b: Read
    recipe: Recipe

    def best_layers(self) -> tuple[int, ...]:
        """Return the layers that are best for both models together, on held-out texts."""
        scores = [
            layer_scores([side.texts.pooled], side.neutral, self.task.names, self.recipe)
            for side in (self.a, self.b)
        ]
        return best_layers(np.mean(scores, axis=0), self.recipe.keep)

    def take(self, rows: NDArray[np.bool_]) -> _Pair:
        """Return the pair with some of the texts."""
        a, b = (Read(side.texts.take(rows), side.neutral) for side in (self.a, self.b))
        return _Pair(self.task, a, b, self.recipe)

    def held_out(self, layers: Sequence[int]) -> tuple[Judged, Judged]:
        """Return both models' scores on topics held out; A's stand beside the text alone."""
        folds = self.a.texts.folds(FOLDS)
        parts = [self._fold(folds == n, layers) for n in range(FOLDS)]
        clusters = self.a.texts.clusters[np.argsort(folds, kind="stable")]
        a, b = (joined(side, clusters) for side in zip(*parts, strict=True))
        return a, b

    def products(
        self, layer: int, weights: NDArray[np.float32], halves: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return inner products of both models' steer directions, as `geometry.products`.

        And, of either model, those between its halves, (2, *`geometry.half_products`).
        """
        sides = [(each.states(layer, self.recipe), each.texts.labels) for each in (self.a, self.b)]
        names = self.task.names
        split = [geometry.half_products(side, names, halves) for side in sides]
        return geometry.products(sides, names, weights), np.array(split)

    def shuffled(self, layers: Sequence[int]) -> NDArray[np.float64]:
        """Return products of A's directions with those of B under shuffled labels, over layers."""
        once = np.ones((1, len(self.a.texts)), np.float32)
        labels = [self.b.texts.shuffled(seed).labels for seed in range(SHUFFLES)]
        names = self.task.names
        total = np.zeros((2, 2, SHUFFLES, len(names), len(names)))
        for layer in layers:
            a, b = (each.states(layer, self.recipe) for each in (self.a, self.b))
            for n, wrong in enumerate(labels):
                sides = [(a, self.a.texts.labels), (b, wrong)]
                total[:, :, n] += geometry.products(sides, names, once)[:, :, 0]
        return total / len(layers)

    def _fold(self, tested: NDArray[np.bool_], layers: Sequence[int]) -> tuple[Judged, Judged]:
        train, test = self.take(~tested), self.take(tested)
        chosen = layers or train.best_layers()

        def judged(known: Read, new: Read, *, words: bool) -> Judged:
            return judge(
                self.task,
                [known.texts],
                new.texts,
                new.neutral,
                recipe=self.recipe,
                layers=chosen,
                words=words,
                names=self.task.names,
            )

        # The words are the same for both.
        return judged(train.a, test.a, words=True), judged(train.b, test.b, words=False)


def check_pair(
    a: ModelIdentity,
    b: ModelIdentity,
    texts: Sequence[str],
    tokens: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
) -> None:
    """Raise if the residuals of two models on `texts` do not belong to the same tokens and layers.

    `tokens` are the ids that each side makes of each text.

    Raises:
        EmoGuardError: different architectures, sizes or tokenisers.

    """
    sizes = [(_family(each), each.layers, each.hidden) for each in (a, b)]
    if sizes[0] != sizes[1]:
        described = [
            f"{x.name} ({_family(x)}, {x.layers} layers of width {x.hidden})" for x in (a, b)
        ]
        raise EmoGuardError(
            f"only models of one family can be compared, got {' and '.join(described)}: "
            "their directions do not lie in the same space"
        )
    for text, one, other in zip(texts, *tokens, strict=True):
        if list(one) != list(other):
            raise EmoGuardError(
                f"{a.name} and {b.name} have different tokenisers: {text[:40]!r} is "
                f"{len(one)} tokens {list(one[:4])} … and {len(other)} tokens {list(other[:4])} …; "
                "means over other tokens cannot be compared"
            )


def _family(identity: ModelIdentity) -> str:
    # Transformers adds this to the language part of a model that also sees; GGUF does not.
    return identity.architecture.removesuffix("_text")


def check(task: Task, texts: Texts, blocks: int, layers: Sequence[int]) -> None:
    """Raise if two models of `blocks` that can be read cannot be compared on these texts.

    The residuals of the texts are not looked at.

    Raises:
        EmoGuardError: a label without enough texts or topics, a single one, layers that the models
            lack, or texts without words that two of them share.

    """
    few = [name for name in task.names if np.sum(texts.labels == name) < 2 * FOLDS]
    if few:
        counts = ", ".join(f"{name} {np.sum(texts.labels == name)}" for name in few)
        raise EmoGuardError(
            f"each label needs at least {2 * FOLDS} texts to hold some out, got {counts}: "
            "give a corpus that has them, or name the labels it has"
        )
    if len(task.names) < 2:
        raise EmoGuardError("comparing needs at least two labels: directions are their differences")
    wrong = [n for n in layers if not 0 <= n < blocks]
    if wrong:
        raise EmoGuardError(
            f"layers must lie in [0, {blocks - 1}], got {wrong}: give others by --layer, or none "
            "for the best four"
        )
    check_crossed(texts, task.names, FOLDS)
    counted(texts.texts)  # what the text alone tells is measured last, and has to be there


def _separation(judged: tuple[Judged, Judged], columns: Sequence[int]) -> Paired:
    a, b = (each.areas(MODEL) for each in judged)
    words = [judged[0].areas(name).mean(columns) for name in TEXT_ONLY]
    # The better detector on the tested texts: the floor is too high rather than too low.
    best = max(words, key=lambda estimate: estimate.value)
    return Paired(a.mean(columns), b.mean(columns), (b - a).mean(columns), best, 0.5)


def _target_cosines(task: Task, gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cosines (resamples, targets): of the labels and, where there is one, the axis."""
    labels = geometry.cosines(gram)
    if len(task.targets) == len(task.names):
        return labels
    axis = geometry.axis_cosine(gram, np.array(task.signs, float))
    return np.hstack([labels, axis[:, None]])


def _ceilings(task: Task, split: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return per target the cosine of equal directions with independent noise, (targets,).

    `split` has products between the halves of A and of B, from `_Pair.products`.
    """
    if not split.shape[3]:
        return np.full(len(task.targets), np.nan)
    agreements = [_target_cosines(task, side).mean(axis=0) for side in split]
    a, b = (geometry.stepped_up(each) for each in agreements)
    return np.asarray(np.sqrt(a * b))


def _basic(percentile: Estimate, least: float = -1.0, most: float = 1.0) -> Estimate:
    """Return an estimate with its basic interval, from one with a percentile interval.

    Noise makes the cosine of two means smaller, and each resample has that noise twice: percentiles
    lie about as far below the value as the value lies below the noiseless cosine. The basic
    interval [2 value - high, 2 value - low] mirrors them (Davison and Hinkley 1997, section 5.2.1).
    It is clipped to the possible range, [`least`, `most`], and widened to the value if noise alone
    leaves it out. That corrects noise to the first order: with a ceiling below .8 intervals are
    still too low (equal planted directions, ceiling .90: the mean cosine's covers 1 in 25 of 25
    runs, the overlap's in 23; ceiling .68: in 13 and 1).
    """
    low = min(percentile.value, max(least, 2 * percentile.value - percentile.high))
    high = max(percentile.value, min(most, 2 * percentile.value - percentile.low))
    return Estimate(percentile.value, low, high)


def _angles(principal: Sample) -> tuple[Estimate, ...]:
    """Return principal angles in degrees from their cosines.

    Intervals come from the cosines, where noise adds up; in degrees its square root does.
    """
    cosines = [_basic(principal.estimate(n), least=0.0) for n in range(len(principal.value))]
    return tuple(Estimate(*map(_degrees, (each.value, each.high, each.low))) for each in cosines)


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(cosine)))


def _valence(
    task: Task, texts: Texts, grams: NDArray[np.float64], weights: NDArray[np.float32]
) -> Valence | None:
    if len(task.targets) == len(task.names):
        return None
    signs = np.array(task.signs, float)
    words = geometry.products([(_tfidf(texts.texts), texts.labels)], task.names, weights)[0, 0]
    numbers = [_carrying(gram, signs) for gram in (grams[0, 0], grams[1, 1], words)]
    coordinates = geometry.components(grams[0, 0][:1])[0][0]
    null = geometry.permuted_correlations(coordinates, signs)
    chances = (None, _most(null.max(axis=1)), _most(null[:, 0]), None)
    a, b, w = (_sample(each) for each in numbers)
    return Valence(
        *(
            Paired(a.estimate(n), b.estimate(n), (b - a).estimate(n), w.estimate(n), chance)
            for n, chance in enumerate(chances)
        )
    )


def _carrying(gram: NDArray[np.float64], signs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rank, strongest and first correlation, and share of variance, (resamples, 4)."""
    coordinates, shares = geometry.components(gram)
    correlations = geometry.correlations(coordinates, signs)
    best = correlations.argmax(axis=1)
    every = np.arange(len(correlations))
    return np.stack(
        [best + 1, correlations[every, best], correlations[:, 0], shares[every, best]], axis=1
    )


def _tfidf(texts: Sequence[str]) -> NDArray[np.float64]:
    _, matrix = counted(texts)
    return np.asarray(matrix.toarray(), np.float64)


def _sample(values: NDArray[np.float64]) -> Sample:
    """Return statistics (1 + resamples, statistics), the first of all texts, as a sample."""
    return Sample(values[0], values[1:])


def _most(values: NDArray[np.float64]) -> float:
    return float(np.quantile(values, LARGEST_CHANCE))
