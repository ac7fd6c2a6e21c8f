"""Scores texts by the model and by the text alone, both fitted on other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit.recipe import Recipe, fit_directions
from emoguard.fit.requirements import VALENCE
from emoguard.fit.textonly import TextOnly, standardised
from emoguard.validate.estimate import Sample, areas, cluster_weights, shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.validate.reading import Texts

MODEL = "model"


@dataclass(frozen=True)
class Task:
    """The targets to separate: label `names`, and an axis from negative to positive ones.

    `signs` are +1 or -1 per name, 0 where none is given. `targets` are the columns of results: the
    names, and the axis if it has one.
    """

    names: tuple[str, ...]
    signs: tuple[int, ...]
    axis: str = VALENCE

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the names and, where both signs occur, the axis."""
        return (*self.names, self.axis) if {-1, 1} <= set(self.signs) else self.names

    @property
    def columns(self) -> list[int]:
        """Return the columns of names: a macro average runs over them."""
        return list(range(len(self.names)))

    def positives(self, labels: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Return a mask of the texts that are positive for each target, (texts, targets)."""
        positive = labels[:, None] == np.array(self.names)
        if len(self.targets) > len(self.names):
            pleasant = positive[:, np.array(self.signs) > 0].any(axis=1, keepdims=True)
            positive = np.hstack([positive, pleasant])
        return np.asarray(positive)

    def with_axis(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scores (texts, names) with the axis added: mean positive minus mean negative."""
        if len(self.targets) == len(self.names):
            return scores
        signs = np.array(self.signs)
        known = np.isfinite(scores).any(axis=0)
        up, down = scores[:, known & (signs > 0)], scores[:, known & (signs < 0)]
        if not up.shape[1] or not down.shape[1]:
            return np.hstack([scores, np.full((len(scores), 1), np.nan)])
        contrast = up.mean(axis=1) - down.mean(axis=1)
        return np.hstack([scores, contrast[:, None]])


@dataclass(frozen=True, eq=False)
class Judged:
    """Scores on held-out texts by detector, each (texts, targets), and how they are resampled.

    `positive` has shape (texts, targets), `weights` (resamples, texts). `layers` are those the
    recipe chose on its training texts.
    """

    task: Task
    labels: NDArray[np.str_]
    positive: NDArray[np.bool_]
    weights: NDArray[np.float32]
    scores: dict[str, NDArray[np.float64]]
    layers: tuple[int, ...] = ()

    def areas(self, detector: str) -> Sample:
        """Return the AUROC of each target against all other texts."""
        return areas(self.scores[detector], self.positive, self.weights)

    def guesses(self, detector: str) -> NDArray[np.str_]:
        """Return the name with the highest score of each text, among those fitted, (texts,)."""
        scores = self.scores[detector][:, : len(self.task.names)]
        return np.asarray(np.array(self.task.names)[np.nanargmax(scores, axis=1)])

    def top1(self, detector: str) -> Sample:
        """Return the share of texts whose name has the highest score."""
        return shares(self.guesses(detector) == self.labels, self.weights)

    @property
    def chance(self) -> float:
        """Return the top-1 share of a guess among the names that occur."""
        return 1 / len(np.unique(self.labels))

    def confusion(self, detector: str) -> NDArray[np.int64]:
        """Return counts of (name, guessed name)."""
        names = list(self.task.names)
        counts = np.zeros((len(names), len(names)), np.int64)
        truth = [names.index(label) for label in self.labels]
        np.add.at(counts, (truth, [names.index(g) for g in self.guesses(detector)]), 1)
        return counts


def judge(
    task: Task,
    train: Sequence[Texts],
    test: Texts,
    neutral: NDArray[np.float32],
    *,
    recipe: Recipe,
    layers: Sequence[int] = (),
    words: bool = True,
    names: Sequence[str] = (),
) -> Judged:
    """Fit on `train` only, layers chosen there too, and score `test`.

    `neutral` are the residuals of neutral texts, (texts, layers, hidden). Without `names`, those
    that occur on both sides are scored, so that no detector can guess an absent one. With `words`
    the text-only detectors are trained on the same texts. All scores are standardised over the
    tested texts, regardless of their labels: the texts of another generator are shifted as a whole,
    and that is no emotion.
    """
    if not names:
        names = shared_names(task, train, test)
        test = having(test, names)
    train = [each for each in (having(each, names) for each in train) if len(each)]
    fitted = fit_directions([t.pooled for t in train], neutral, names, recipe, tuple(layers))
    scores = {MODEL: standardised(fitted.scores(test.residuals))}
    if words:
        texts = [text for each in train for text in each.texts]
        signs = [task.signs[task.names.index(name)] for name in names]
        floor = TextOnly(texts, np.concatenate([t.labels for t in train]), names, signs)
        scores |= floor.scores(test.texts)
    return Judged(
        task,
        test.labels,
        task.positives(test.labels),
        cluster_weights(test.clusters),
        {name: task.with_axis(over_task(task, names, s)) for name, s in scores.items()},
        tuple(fitted.layers),
    )


def joined(parts: Sequence[Judged], clusters: NDArray[np.str_]) -> Judged:
    """Return the folds of one corpus as one, resampled by the clusters of their texts in order."""
    first = parts[0]
    return Judged(
        first.task,
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.positive for p in parts]),
        cluster_weights(clusters),
        {name: np.concatenate([p.scores[name] for p in parts]) for name in first.scores},
    )


def shared_names(task: Task, train: Sequence[Texts], test: Texts) -> tuple[str, ...]:
    """Return the names that occur in the test and in one of the training corpora."""
    known = set(np.concatenate([each.labels for each in train])) & set(test.labels)
    return tuple(name for name in task.names if name in known)


def check_crossed(texts: Texts, names: Sequence[str], count: int) -> None:
    """Raise if holding out one of `count` folds would leave some name without texts to fit.

    Raises:
        EmoGuardError: all texts of a name are in one fold.

    """
    folds = texts.folds(count)
    for name in names:
        own = folds[texts.labels == name]
        if len(own) and len(np.unique(own)) < 2:
            raise EmoGuardError(
                f"corpus {texts.name}: the {len(own)} texts of label {name} are all of topics that "
                "are held out together, so that none would be left to fit on: tell more topics "
                "for it, best every topic for every label"
            )


def testable(task: Task, train: Sequence[Texts], test: Texts) -> bool:
    """Return whether both sides have two names to separate."""
    return bool(train) and len(shared_names(task, train, test)) > 1


def having(texts: Texts, names: Sequence[str]) -> Texts:
    """Return the texts whose label is one of `names`."""
    rows = np.isin(texts.labels, list(names))
    return texts if rows.all() else texts.take(rows)


def over_task(task: Task, names: Sequence[str], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores (texts, names of the task), NaN where a name was not fitted."""
    whole = np.full((len(scores), len(task.names)), np.nan)
    whole[:, [task.names.index(name) for name in names]] = scores
    return whole
