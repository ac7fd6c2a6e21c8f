"""Detects labels from the words of a text: the floor under every number about a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT_ONLY = ("TF-IDF, logistic", "TF-IDF, centroid", "VADER")
"""Names of the detectors; the best of them is the floor."""


class TextOnly:
    """Detectors that see the text alone.

    They see words, split at spaces and punctuation. A known limit: in languages written without
    spaces hardly any word occurs twice, VADER knows none, and the floor is too low.

    Trained on texts: TF-IDF with logistic regression and with nearest centroid. Not trained: the
    compound score of VADER (Hutto and Gilbert 2014), times `signs`, +1 or -1 per name. Scores have
    shape (texts, names); a name that has no training text is NaN. All are standardised over the
    texts that are scored, so that names can be averaged.

    Raises:
        EmoGuardError: no word occurs in two of the texts.

    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: NDArray[np.str_],
        names: Sequence[str],
        signs: Sequence[int],
    ) -> None:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

        self._names = tuple(names)
        self._vectors, x = counted(texts)
        self._classes = [name for name in names if np.any(labels == name)]
        self._logistic = LogisticRegression(C=10, max_iter=300, class_weight="balanced")
        self._logistic.fit(x, labels)
        self._centroids = _centroids(x, labels, self._classes)
        self._signs = np.array([s for n, s in zip(names, signs, strict=True) if n in self._classes])
        self._length = _Length(texts, labels, self._classes)

    def scores(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return the scores of each detector by name, and those of the length alone."""
        x = self._vectors.transform(texts)
        logs = self._logistic.predict_log_proba(x)
        order = [list(self._logistic.classes_).index(name) for name in self._classes]
        columns = (
            logs[:, order],
            np.asarray(x @ self._centroids.T),
            np.array([_compound(text) for text in texts])[:, None] * self._signs,
            self._length.scores(texts),
        )
        return {
            name: self._all_names(np.asarray(scores, np.float64))
            for name, scores in zip((*TEXT_ONLY, "length"), columns, strict=True)
        }

    @property
    def directions(self) -> NDArray[np.float64]:
        """Return the centroids around their mean, unit length, (names, words); 0 without texts."""
        whole = np.zeros((len(self._names), self._centroids.shape[1]))
        whole[[self._names.index(name) for name in self._classes]] = self._centroids
        return whole

    def _all_names(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.full((len(scores), len(self._names)), np.nan)
        for column, name in enumerate(self._classes):
            whole[:, self._names.index(name)] = standardised(scores[:, column])
        return whole


def counted(texts: Sequence[str]) -> tuple[Any, Any]:
    """Return a TF-IDF vectoriser fitted on texts, and their vectors, sparse (texts, words).

    Words are two letters or more between spaces or punctuation, and occur in two texts or more.

    Raises:
        EmoGuardError: there are no such words.

    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    vectors = TfidfVectorizer(sublinear_tf=True, min_df=2)
    try:
        return vectors, vectors.fit_transform(texts)
    except ValueError as error:
        letters = sum(map(len, texts)) / max(1, len(texts))
        raise EmoGuardError(
            f"what the text alone tells is taken from words that occur in at least two texts, got "
            f"none in {len(texts)} texts of {letters:.0f} characters on average: give more or "
            "longer texts; words are split at spaces, so for a language written without them "
            "(Chinese, Japanese, Thai) put spaces between its words, else this floor is too low"
        ) from error


@cache
def vader() -> Callable[[str], float]:
    """Return the compound scorer of VADER, from a text to a number in [-1, 1]."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # noqa: PLC0415

    analyser = SentimentIntensityAnalyzer()
    return lambda text: float(analyser.polarity_scores(text)["compound"])


@lru_cache(maxsize=2**16)
def _compound(text: str) -> float:
    return vader()(text)  # cached: the same texts are scored in many splits


class _Length:
    """Scores a text by the closeness of its length to that of a name's texts."""

    def __init__(
        self, texts: Sequence[str], labels: NDArray[np.str_], classes: Sequence[str]
    ) -> None:
        lengths = _log_words(texts)
        self._means = np.array([lengths[labels == name].mean() for name in classes])

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(-np.abs(_log_words(texts)[:, None] - self._means))


def standardised(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return scores with mean 0 and deviation 1 over the first axis; constants become 0."""
    spread = scores.std(axis=0)
    return np.asarray((scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _centroids(x: Any, labels: NDArray[np.str_], classes: Sequence[str]) -> NDArray[np.float64]:
    """Return the unit mean of each class around the mean of the classes, (classes, words)."""
    means = np.concatenate([np.asarray(x[labels == name].mean(axis=0)) for name in classes])
    means -= means.mean(axis=0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.where(lengths > 0, lengths, 1.0))


def _log_words(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.asarray(np.log([1.0 + len(text.split()) for text in texts]))
