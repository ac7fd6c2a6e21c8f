"""Made-up corpora with planted directions: what a validation must find is known beforehand."""

from __future__ import annotations

import numpy as np

from emoguard.validate.judged import Task
from emoguard.validate.reading import Texts

TASK = Task(("happy", "calm", "sad", "angry"), (1, 1, -1, -1))
LAYERS, HIDDEN = 4, 24
FILLER = ["the", "of", "to", "in", "at", "by", "with", "near", "under", "house", "road", "gate"]


def corpus(
    name="a",
    effect=1.0,
    *,
    word_share=0.0,
    topics=12,
    per_cell=4,
    labels=TASK.names,
    layers=(0, 0.5, 1, 0.5),
    seed=0,
    world=0,
):
    """Labelled texts whose label moves the residual by `effect` times `layers`, in deviations.

    Every corpus has its own offset, topics their own too. `word_share` is how often a word of a
    text is one that goes with its label, in every corpus. Corpora of one `world` share directions
    and a covariance that a few dimensions dominate.
    """
    rng = np.random.default_rng([seed, *map(ord, name)])
    scale = _scale()
    cells = [(lab, f"{name}{t}") for lab in labels for t in range(topics) for _ in range(per_cell)]
    names = np.array([lab for lab, _ in cells])
    places = np.array([topic for _, topic in cells])
    residuals = rng.normal(size=(len(cells), LAYERS, HIDDEN)) * scale
    residuals += rng.normal(size=(1, LAYERS, HIDDEN)) * scale * 2
    own = {topic: rng.normal(size=(LAYERS, HIDDEN)) * scale * 0.5 for topic in sorted(set(places))}
    residuals += np.array([own[topic] for topic in places])
    own = _directions(world)[[TASK.names.index(label) for label in names]]
    residuals += effect * np.array(layers)[None, :, None] * (scale * own)[:, None, :]
    texts = [_text(label, word_share, rng) for label in names]
    embeddings = rng.normal(size=(len(cells), HIDDEN)).astype(np.float32)
    return Texts(name, texts, names, places, residuals.astype(np.float32), embeddings)


def neutral(count=40, seed=99):
    """Texts without an emotion."""
    rng = np.random.default_rng(seed)
    states = (rng.normal(size=(count, LAYERS, HIDDEN)) * _scale()).astype(np.float32)
    empty = np.full(count, "")
    texts = [_text("", 0.0, rng) for _ in range(count)]
    embeddings = rng.normal(size=(count, HIDDEN)).astype(np.float32)
    return Texts("neutral", texts, empty, empty, states, embeddings)


def _scale():
    return np.concatenate([[30.0, 10.0], np.ones(HIDDEN - 2)])


def _directions(world):
    """Unit directions per label; those of two worlds are at right angles to each other."""
    drawn = np.linalg.qr(np.random.default_rng(7).normal(size=(HIDDEN - 2, HIDDEN - 2)))[0]
    mine = drawn[world * len(TASK.names) :][: len(TASK.names)]
    # The dominating dimensions mean nothing.
    return np.hstack([np.zeros((len(mine), 2)), mine])


def _text(label, word_share, rng):
    words = [
        f"{label}word{rng.integers(6)}"
        if label and rng.random() < word_share
        else rng.choice(FILLER)
        for _ in range(20)
    ]
    return " ".join(words)
