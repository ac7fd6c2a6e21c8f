"""Which way of making read directions transfers best? Candidates on stored residuals.

For each candidate: top-1 and macro-AUROC of the labels that two corpora share, fitted on one (or
two) and tested on another, scores centred and scaled on the texts tested, the layers of --layers
averaged. Beside it TF-IDF with logistic regression trained on the same texts, and chance. Residuals
are those that `emoguard fit --keep` left in its folder.

python benchmarks/directions.py OUT.residuals own=stories.jsonl a=… b=… --layers 14,16,18,20,22,24
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard.fit import corpora
from emoguard.fit import directions as d
from emoguard.fit.textonly import counted

Part = tuple[np.ndarray, np.ndarray]
Score = Callable[[Sequence[Part], np.ndarray, np.ndarray, list[str]], np.ndarray]
"""Fits on parts and neutral residuals; returns scores (texts, labels) of the residuals to test."""


def differences(share: float) -> Callable[[Sequence[Part], np.ndarray, list[str]], np.ndarray]:
    """Return a scorer by mean differences, with a share of the neutral variance taken out."""

    def make(parts: Sequence[Part], neutral: np.ndarray, names: list[str]) -> np.ndarray:
        components = (
            d.neutral_components(neutral, share) if share else np.zeros((0, neutral.shape[1]))
        )
        return d.unit(sum(d.mean_differences(x, y, names, components) for x, y in parts))

    return make


def plain(share: float) -> Score:
    """Score along mean differences."""
    make = differences(share)
    return lambda parts, neutral, test, names: test @ make(parts, neutral, names).T


def whitened(share: float, shrinkage: float, target: str) -> Score:
    """Score along mean differences whitened by the covariance within labels."""
    make = differences(share)

    def score(
        parts: Sequence[Part], neutral: np.ndarray, test: np.ndarray, names: list[str]
    ) -> np.ndarray:
        covariance = d.within_covariance(parts, 0.0)
        diagonal = np.diag(covariance)
        drawn = diagonal if target == "diagonal" else np.full_like(diagonal, diagonal.mean())
        mixed = (1 - shrinkage) * covariance + shrinkage * np.diag(drawn)
        return test @ d.whiten(make(parts, neutral, names), mixed).T

    return score


def logistic(strength: float) -> Score:
    """Score by logistic regression on standardised residuals, texts of all corpora together."""

    def score(
        parts: Sequence[Part], _neutral: np.ndarray, test: np.ndarray, names: list[str]
    ) -> np.ndarray:
        x = np.concatenate([(x - x.mean(0)) / x.std(0) for x, _ in parts])
        fitted = LogisticRegression(C=strength, max_iter=60).fit(
            x, np.concatenate([y for _, y in parts])
        )
        order = [list(fitted.classes_).index(name) for name in names]
        return ((test - test.mean(0)) / test.std(0)) @ fitted.coef_[order].T

    return score


CANDIDATES: dict[str, Score] = {
    "plain": plain(0.0),
    "plain, neutral components out": plain(0.5),
    "whitened, identity .3, neutral out": whitened(0.5, 0.3, "identity"),
    "whitened, identity .3": whitened(0.0, 0.3, "identity"),
    "whitened, identity .5": whitened(0.0, 0.5, "identity"),
    "whitened, diagonal .3": whitened(0.0, 0.3, "diagonal"),
    "whitened, diagonal .5 (the recipe)": whitened(0.0, 0.5, "diagonal"),
    "whitened, diagonal .7": whitened(0.0, 0.7, "diagonal"),
    "logistic, C .001": logistic(0.001),
}


@dataclass(frozen=True)
class Corpus:
    """Texts and their mean residuals at all layers, (texts, layers, hidden)."""

    texts: np.ndarray
    labels: np.ndarray
    states: np.ndarray

    def keep(self, names: list[str]) -> Corpus:
        """Return the texts of some labels."""
        kept = np.isin(self.labels, names)
        return Corpus(self.texts[kept], self.labels[kept], self.states[kept])

    def part(self, layer: int) -> Part:
        """Return residuals and labels at one layer."""
        return self.states[:, layer].astype(np.float64), self.labels


def words(fitted: Sequence[Corpus], tested: Corpus, names: list[str]) -> np.ndarray:
    """Return TF-IDF scores of the texts tested, (texts, labels)."""
    vectors, seen = counted(np.concatenate([c.texts for c in fitted]))
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(seen, np.concatenate([c.labels for c in fitted]))
    order = [list(model.classes_).index(name) for name in names]
    return model.predict_proba(vectors.transform(tested.texts))[:, order]


def transferred(
    score: Score,
    fitted: Sequence[Corpus],
    tested: Corpus,
    neutral: np.ndarray,
    *,
    layers: Sequence[int],
    names: list[str],
) -> np.ndarray:
    """Return a candidate's scores of the texts tested, (texts, labels), layers averaged."""
    total = np.zeros((len(tested.labels), len(names)))
    for layer in layers:
        plain_texts = neutral[:, layer].astype(np.float64)
        scores = score([c.part(layer) for c in fitted], plain_texts, tested.part(layer)[0], names)
        total += (scores - scores.mean(0)) / scores.std(0)
    return total


def judged(scores: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
    """Return top-1 and macro-AUROC."""
    top = np.array(names)[scores.argmax(axis=1)] == labels
    areas = [d.auroc(scores[:, n], labels == name) for n, name in enumerate(names)]
    return f"{top.mean():.2f} {np.mean(areas):.2f}"


def compare(
    fitted: Sequence[Corpus], tested: Corpus, neutral: np.ndarray, layers: Sequence[int]
) -> dict[str, str]:
    """Return the results of each candidate on the labels that both sides have."""
    both = set(tested.labels) & set(np.concatenate([c.labels for c in fitted]))
    names = [label.name for label in corpora.default_labels() if label.name in both]
    fitted, tested = [c.keep(names) for c in fitted], tested.keep(names)
    by_candidate = {"TF-IDF, logistic": words(fitted, tested, names)}
    for name, score in CANDIDATES.items():
        by_candidate[name] = transferred(score, fitted, tested, neutral, layers=layers, names=names)
    rows = {name: judged(scores, tested.labels, names) for name, scores in by_candidate.items()}
    return rows | {"chance": f"{1 / len(names):.2f} 0.50"}


def stored(folder: Path) -> np.ndarray:
    """Return residuals (texts, layers, hidden); the first row of each text is its embeddings."""
    return np.load(folder / "rows.npy", mmap_mode="r")[:, 1:]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("residuals", type=Path)
    parser.add_argument("corpora", nargs="+", help="NAME=FILE, in the order they were fitted in")
    parser.add_argument("--layers", default="14,16,18,20,22,24")
    parser.add_argument("--most", type=int, default=72)
    options = parser.parse_args()
    layers = [int(n) for n in options.layers.split(",")]
    read: dict[str, Corpus] = {}
    for n, each in enumerate(options.corpora):
        name, _, path = each.partition("=")
        texts = corpora.balanced(corpora.read(path, corpora.default_labels()), options.most)
        read[name] = Corpus(
            np.array([t.text for t in texts]),
            np.array([t.label for t in texts]),
            stored(options.residuals / f"corpus-{n}"),
        )
    neutral = stored(options.residuals / "neutral")
    splits = [((a,), b) for a, b in permutations(read, 2)]
    if len(read) > 2:
        splits += [(tuple(a for a in read if a != b), b) for b in read]
    columns = {
        "+".join(fitted) + ">" + tested: compare(
            [read[name] for name in fitted], read[tested], neutral, layers
        )
        for fitted, tested in splits
    }
    print("| top-1, AUROC | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(cells[name] for cells in columns.values()) + " |")


if __name__ == "__main__":
    main()
