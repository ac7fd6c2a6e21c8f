"""Holds texts with a model's residuals: the input of every validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.recipe import Pooled

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_TOPICS = 6
"""With fewer topics, every text counts as a topic of its own."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Labelled texts of one origin and their mean residuals.

    `labels` and `topics` have shape (texts,), `residuals` (texts, layers, hidden) and, where there
    are any, `embeddings` (texts, hidden): the input of the first block. The index on the second
    axis of `residuals` is the layer.
    """

    name: str
    texts: Sequence[str]
    labels: NDArray[np.str_]
    topics: NDArray[np.str_]
    residuals: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def clusters(self) -> NDArray[np.str_]:
        """Return the clusters to hold out and resample, (texts,): topics, or single texts."""
        if len(np.unique(self.topics)) >= FEWEST_TOPICS:
            return self.topics
        return np.array([str(n) for n in range(len(self))])

    @property
    def pooled(self) -> Pooled:
        """Return the residuals, labels and topics to fit directions on."""
        return Pooled(self.residuals, self.labels, self.topics)

    def take(self, rows: NDArray[np.bool_]) -> Texts:
        """Return the texts where `rows`, (texts,), is true."""
        return Texts(
            self.name,
            [text for text, kept in zip(self.texts, rows, strict=True) if kept],
            self.labels[rows],
            self.topics[rows],
            self.residuals[rows],
            None if self.embeddings is None else self.embeddings[rows],
        )

    def labelled(self, labels: NDArray[np.str_]) -> Texts:
        """Return the same texts under other labels."""
        return dataclasses.replace(self, labels=labels)

    def only_embeddings(self) -> Texts:
        """Return the texts as if the embeddings were the output of the only layer."""
        assert self.embeddings is not None
        return dataclasses.replace(self, residuals=self.embeddings[:, None, :])

    def folds(self, count: int, seed: int = 0) -> NDArray[np.int64]:
        """Return the fold of each text among `count`, (texts,); see `folds`."""
        return folds(self.labels, self.clusters, count, seed)

    def shuffled(self, seed: int) -> Texts:
        """Return the texts with their labels shuffled, within each topic where there are topics.

        Every label keeps its number of texts and its topics, and loses its meaning.
        """
        rng = np.random.default_rng(seed)
        labels = self.labels.copy()
        has_topics = len(np.unique(self.topics)) >= FEWEST_TOPICS
        groups = self.topics if has_topics else np.zeros(len(self), int)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            labels[rows] = labels[rng.permutation(rows)]
        return self.labelled(labels)


def folds(
    labels: NDArray[np.str_], clusters: NDArray[np.str_], count: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each text among `count`, (texts,); a cluster is in one fold.

    Single texts are dealt label by label, so that every fold has its share of each.
    """
    rng = np.random.default_rng(seed)
    names, inverse = np.unique(clusters, return_inverse=True)
    if len(names) < len(labels):
        return np.asarray((rng.permutation(len(names)) % count)[inverse])
    mixed = rng.permutation(len(labels))
    dealt = mixed[np.argsort(labels[mixed], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[dealt] = np.arange(len(labels)) % count
    return fold
