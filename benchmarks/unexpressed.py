"""How much of a score does the text of an answer show, and what is left of it?

A text model of at most 100 KB, hashed n-grams of words and letters into a ridge regression,
predicts the mean z that the shipped probe read. It is fitted on answers without an emotion, all
that `emoguard calibrate` has, and again with those of the conditions that move the model; R² is on
answers to prompts left out (ten groups of prompts).

`unexpressed` is z minus the prediction. It should tell nothing where the text shows the label
(written on request), and may tell something only where the model is moved and the text does not
show it. AUROC against the control, mean over labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.answertable import Table, over_labels, readings
from benchmarks.conditions import CONDITIONS, FITTED, LABELS, NEUTRAL
from benchmarks.owndirections import STATISTICS, of_labels

BUCKETS = 4096
"""Of hashed n-grams: 12 labels at one byte a weight are 48 KB."""

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
GROUPS = 10


def ngrams(texts: Sequence[str]) -> np.ndarray:
    """Return hashed counts of words, pairs of words and pieces of 3 to 5 letters, unit length."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    half = BUCKETS // 2
    words = HashingVectorizer(n_features=half, ngram_range=(1, 2))
    letters = HashingVectorizer(n_features=half, analyzer="char_wb", ngram_range=(3, 5))
    counts = hstack([words.transform(texts), letters.transform(texts)])
    return np.asarray(normalize(counts).toarray())


def predicted(
    x: np.ndarray, z: np.ndarray, clusters: np.ndarray, strength: float, asked: np.ndarray
) -> np.ndarray:
    """Return predictions of z (answers, labels) for all `x`.

    Rows in `asked` may be fitted on; each is predicted by a fit that has not seen its prompt.
    """
    from sklearn.linear_model import Ridge

    names, inverse = np.unique(clusters, return_inverse=True)
    group = np.random.default_rng(0).permutation(len(names))[inverse] % GROUPS
    predictions = np.zeros_like(z)
    for n in range(GROUPS):
        known = asked & (group != n)
        predictions[group == n] = Ridge(strength).fit(x[known], z[known]).predict(x[group == n])
    return predictions


def explained(z: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return R² of each label, (labels,)."""
    return np.asarray(1 - ((z - by) ** 2).sum(0) / ((z - z.mean(0)) ** 2).sum(0))


def main() -> None:
    """Print R², and the AUROC of what is left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    table = Table.load(options.model)
    read = readings(options.model, table)
    z = of_labels(read["shipped"], read["labels"].tolist())[:, :, STATISTICS.index("mean")]
    x = ngrams(table.texts)
    neutral = table.labels == NEUTRAL
    moved = np.isin(table.conditions, FITTED)
    for name, asked in (("neutral", neutral), ("neutral, voice, written", neutral | moved)):
        fits = {s: predicted(x, z, table.clusters, s, asked) for s in STRENGTHS}
        areas = {s: explained(z[asked], by[asked]) for s, by in fits.items()}
        best = max(areas, key=lambda s: float(areas[s].mean()))
        each = " ".join(f"{n} {v:.2f}" for n, v in zip(LABELS, areas[best], strict=True))
        print(
            f"{name}: {asked.sum()} answers, ridge {best:g}: R² {areas[best].mean():.2f} ({each})"
        )
        for condition in CONDITIONS:
            if len(table.where("final", condition)):
                left = table.area(z - fits[best], "final", condition)
                whole = table.area(z, "final", condition)
                print(f"  {condition:10} z {over_labels(whole)}, unexpressed {over_labels(left)}")


if __name__ == "__main__":
    main()
