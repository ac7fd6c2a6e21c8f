"""The recipe, corpora in, probe out: differences of means, layers chosen on held-out topics.

Steer directions are the plain differences; read directions are the same, whitened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit import directions as d
from emoguard.fit.corpora import Label, Text
from emoguard.fit.extraction import pool
from emoguard.identity import Witness
from emoguard.probe import Probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.protocols import Residuals

VALENCE = "valence"
HELD_OUT = 3
"""Every third topic (or text, in a corpus without topics) is held out to choose layers."""


@dataclass(frozen=True)
class Pooled:
    """One corpus after extraction: mean residuals (texts, layers, hidden) and labels (texts,)."""

    residuals: NDArray[np.float32]
    labels: NDArray[np.str_]
    held_out: NDArray[np.bool_]

    @classmethod
    def extract(
        cls,
        door: Residuals,
        texts: Sequence[Text],
        layers: Sequence[int],
        skip: int,
        progress: Callable[[int], None],
    ) -> Pooled:
        """Read the residuals of `texts` and mark every third topic as held out."""
        topics = {topic: n for n, topic in enumerate(sorted({t.topic for t in texts}))}
        groups = [topics[t.topic] if len(topics) >= HELD_OUT else n for n, t in enumerate(texts)]
        return cls(
            pool(door, [t.text for t in texts], layers, skip, progress),
            np.array([t.label for t in texts]),
            np.array(groups) % HELD_OUT == 0,
        )

    def part(self, layer: int, *, held_out: bool) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
        """Return (residuals, labels) of one half of the split at one layer."""
        chosen = self.held_out == held_out
        return self.residuals[chosen, layer], self.labels[chosen]


def fit(
    door: Residuals,
    corpora: Sequence[Sequence[Text]],
    neutral: Sequence[Text],
    labels: Sequence[Label],
    *,
    name: str,
    layers: Sequence[int] = (),
    keep: int = 4,
    skip: int = 20,
    progress: Callable[[int], None] = lambda _: None,
    sources: Sequence[str] = (),
) -> Probe:
    """Make a probe for the model behind `door`.

    `layers` fixes the layers to read; without it the `keep` best of the inner layers are chosen by
    the macro-AUROC of held-out topics. `progress` is called with the number of texts read so far.

    Raises:
        EmoGuardError: too few neutral texts, or a label without texts in every corpus.

    """
    _check(door, corpora, neutral, labels, layers)
    candidates = list(layers) or list(range(1, door.identity.layers - 1))
    done = 0

    def count(texts: int) -> None:
        progress(done + texts)

    neutral_pool = pool(door, [t.text for t in neutral], candidates, skip, count)
    done += len(neutral)
    pools = []
    for corpus in corpora:
        pools.append(Pooled.extract(door, corpus, candidates, skip, count))
        done += len(corpus)
    components = [d.neutral_components(neutral_pool[:, n]) for n in range(len(candidates))]
    names = [label.name for label in labels]
    scores = np.array(
        [_held_out_auroc(pools, n, names, components[n]) for n in range(len(candidates))]
    )
    best = sorted(np.argsort(scores.mean(axis=1))[::-1][: keep if not layers else None].tolist())
    read, steer, centre, weights = _assemble(pools, best, labels, components)
    chosen = tuple(candidates[n] for n in best)
    return Probe(
        name=name,
        labels=(*names, VALENCE),
        layers=chosen,
        read=read,
        steer=steer,
        centre=centre,
        weights=weights,
        witness=Witness.record(door, chosen),
        architecture=door.identity.architecture,
        model_layers=door.identity.layers,
        axes=(VALENCE,),
        recipe={
            "steer": "mean difference, neutral components removed",
            "read": "the same, whitened by the covariance within labels",
            "shrinkage": d.SHRINKAGE,
            "neutral_variance": d.NEUTRAL_VARIANCE,
            "skip": skip,
            "texts": [len(corpus) for corpus in corpora],
            "neutral_texts": len(neutral),
            "sources": list(sources),
            "fitted_on": door.identity.name,
            "quantisation": door.identity.quantisation,
        },
        card=_card(candidates, chosen, scores, names),
    )


def _check(
    door: Residuals,
    corpora: Sequence[Sequence[Text]],
    neutral: Sequence[Text],
    labels: Sequence[Label],
    layers: Sequence[int],
) -> None:
    if len(neutral) < 16:
        raise EmoGuardError(f"fitting needs at least 16 neutral texts, got {len(neutral)}")
    wrong = [n for n in layers if not 0 <= n < door.identity.layers - 1]
    if wrong:
        raise EmoGuardError(
            f"layers must lie in [0, {door.identity.layers - 2}] for {door.identity.name}, "
            f"got {wrong}"
        )
    for label in labels:
        most = max(sum(t.label == label.name for t in corpus) for corpus in corpora)
        if most < 6:
            raise EmoGuardError(
                f"label {label.name} needs at least 6 texts in one corpus, got {most}: "
                f"texts with emotion {' or '.join(label.words)}"
            )
    if {label.valence > 0 for label in labels} != {True, False}:
        raise EmoGuardError("the valence axis needs labels of both signs")


def _combined(
    parts: Sequence[tuple[NDArray[np.float32], NDArray[np.str_]]],
    names: Sequence[str],
    components: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return unit directions (names, hidden): each corpus counts the same, whatever its size."""
    per_corpus = [d.mean_differences(x, y, names, components) for x, y in parts]
    return d.unit(np.sum(per_corpus, axis=0))


def _held_out_auroc(
    pools: Sequence[Pooled], layer: int, names: Sequence[str], components: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return per label the AUROC on held-out topics, averaged over corpora, (names,)."""
    parts = [p.part(layer, held_out=False) for p in pools]
    fitted = d.whiten(_combined(parts, names, components), d.within_covariance(parts))
    found: list[list[float]] = [[] for _ in names]
    for p in pools:
        residuals, labels = p.part(layer, held_out=True)
        for index, name in enumerate(names):
            positive = labels == name
            if positive.any() and not positive.all():
                found[index].append(d.auroc(residuals @ fitted[index], positive))
    return np.array([np.mean(values) if values else np.nan for values in found])


def _assemble(
    pools: Sequence[Pooled],
    best: Sequence[int],
    labels: Sequence[Label],
    components: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float32], ...]:
    """Fit on everything: read and steer (layers, labels + 1, hidden), centre, weights."""
    names = [label.name for label in labels]
    signs = np.array([label.valence for label in labels], float)
    found: tuple[list[Any], ...] = ([], [], [], [])
    for n in best:
        parts = [(p.residuals[:, n], p.labels) for p in pools]
        steer = _combined(parts, names, components[n])
        steer = np.vstack([steer, d.valence(steer, signs)])
        read = d.whiten(steer, d.within_covariance(parts))
        centre = np.mean([residuals.mean(axis=0) for residuals, _ in parts], axis=0)
        # Residuals grow with depth: each layer counts by the spread of its own projections.
        spread = np.concatenate([(residuals - centre) @ read.T for residuals, _ in parts]).std()
        for kept, value in zip(found, (read, steer, centre, 1 / (spread * len(best))), strict=True):
            kept.append(value)
    return tuple(np.array(kept, np.float32) for kept in found)


def _card(
    candidates: Sequence[int],
    chosen: Sequence[int],
    scores: NDArray[np.float64],
    names: Sequence[str],
) -> dict[str, Any]:
    rows = [candidates.index(layer) for layer in chosen]
    return {
        "status": "first fit: not yet validated against text statistics, other styles or people",
        "auroc_chance": 0.5,
        "held_out_auroc": {
            name: round(float(value), 3)
            for name, value in zip(names, scores[rows].mean(axis=0), strict=True)
        },
        "layer_auroc": {
            str(layer): round(float(value), 3)
            for layer, value in zip(candidates, scores.mean(axis=1), strict=True)
        },
    }
