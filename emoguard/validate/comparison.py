"""Compares the model with the text alone and chance, on the same texts, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emoguard.fit.textonly import TEXT_ONLY
from emoguard.validate.estimate import Estimate, Sample, average
from emoguard.validate.judged import MODEL, Judged, Task

LENGTH = "length"


@dataclass(frozen=True)
class Pair:
    """A number for the model, the same for the text alone, and the paired difference."""

    model: Estimate
    words: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Comparison:
    """AUROC and top-1 on one split, or averaged over several test corpora.

    `macro` is the mean over names, `targets` holds every name and the axis. `top1` of several test
    corpora is their mean, and so is `top1_chance`. `length` is the macro AUROC of the text's length
    alone. `layers` are those the recipe chose, by test corpus.
    """

    texts: int
    macro: Pair
    targets: dict[str, Pair]
    top1: Pair
    top1_chance: float
    length: float
    layers: tuple[tuple[int, ...], ...]


def compare(task: Task, parts: Sequence[Judged]) -> Comparison:
    """Return the comparison over test corpora, each counting the same.

    For each target, and for each mean, the text-only detector is the best one there: it is chosen
    on the tested texts, so that the floor is too high rather than too low.
    """
    samples = {name: average([p.areas(name) for p in parts]) for name in parts[0].scores}
    targets = {}
    for column, target in enumerate(task.targets):
        if np.isfinite(samples[MODEL].value[column]):
            words = samples[_better(samples, column)]
            targets[target] = Pair(
                samples[MODEL].estimate(column),
                words.estimate(column),
                (samples[MODEL] - words).estimate(column),
            )
    known = [n for n in task.columns if task.names[n] in targets]
    macros = {name: samples[name].mean(known) for name in TEXT_ONLY}
    best = max(TEXT_ONLY, key=lambda name: macros[name].value)
    return Comparison(
        texts=sum(len(p.labels) for p in parts),
        macro=Pair(
            samples[MODEL].mean(known), macros[best], (samples[MODEL] - samples[best]).mean(known)
        ),
        targets=targets,
        top1=_top1(parts),
        top1_chance=float(np.mean([p.chance for p in parts])),
        length=float(samples[LENGTH].mean(known).value),
        layers=tuple(p.layers for p in parts),
    )


def _better(samples: Mapping[str, Sample], column: int) -> str:
    return max(TEXT_ONLY, key=lambda name: samples[name].value[column])


def _top1(parts: Sequence[Judged]) -> Pair:
    shares = {name: average([p.top1(name) for p in parts]) for name in (MODEL, *TEXT_ONLY)}
    best = max(TEXT_ONLY, key=lambda name: shares[name].value[0])
    return Pair(
        shares[MODEL].estimate(0),
        shares[best].estimate(0),
        (shares[MODEL] - shares[best]).estimate(0),
    )
