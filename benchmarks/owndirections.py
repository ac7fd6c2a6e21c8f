"""Directions fitted on a model's own answers, and what they and a shipped probe read on others.

A direction of a label is the mean residual of its answers minus that of the control, which answers
the same prompts, or minus the mean of the control and of all other labels, averaged over
conditions; it is whitened as `emoguard fit` whitens. Each token's projection is standardised on
answers to plain prompts of another pool.

`--choose` compares layers, conditions, statistics and what a label is set against on the tuning
pool, never on the final one, by the mean of the AUROC against the control and against the other
labels. It keeps the best in `turning/choice.json`; without it all answers are read with that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.answering import KEPT, MODELS, Answer, Model, load, numbers
from benchmarks.answertable import Table, mean_area
from benchmarks.conditions import FITTED, LABELS, NEUTRAL, Item, items
from emoguard import Guard
from emoguard.fit.directions import unit, whiten, within_covariance
from emoguard.probe.crossing import rolling_mean
from emoguard.probe.probe import Probe

WINDOWS = (8, 16, 32)
STATISTICS = ("mean", *(f"most of {window}" for window in WINDOWS))
"""Of an answer: the mean over its tokens, and the highest mean of so many tokens in a row."""


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads scores of tokens: per layer a direction a label, then location and scale.

    `directions` has shape (layers, labels, hidden), `centre` (layers, hidden), `location` and
    `scale` (labels,).
    """

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    directions: np.ndarray
    centre: np.ndarray
    location: np.ndarray
    scale: np.ndarray

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Return standardised scores (tokens, labels) of residuals (tokens, layers, hidden)."""
        raw = np.einsum("tlh,lkh->tk", rows - self.centre, self.directions)
        return np.asarray((raw - self.location) / self.scale)


def statistics(z: np.ndarray) -> np.ndarray:
    """Return the statistics of an answer (labels, statistics) from scores (tokens, labels)."""
    most = [rolling_mean(z, min(window, len(z))).max(axis=0) for window in WINDOWS]
    return np.stack([z.mean(axis=0), *most], axis=1)


def of_probe(probe: Probe, kept: Sequence[int], plain: Sequence[Answer]) -> Reader:
    """Return a probe's directions as a reader, standardised on plain answers.

    `kept` are the layers whose residuals answers hold.
    """
    folded = probe.weights[:, None, None] * probe.read
    return _standardised(probe.labels, probe.layers, folded, probe.centre, kept, plain)


def fitted(
    answers: Sequence[Answer],
    layers: Sequence[int],
    kept: Sequence[int],
    plain: Sequence[Answer],
    against: str,
) -> Reader:
    """Fit a direction a label and layer on answers under conditions, standardised on plain ones."""
    means = np.array([numbers(each.rows).mean(axis=0) for each in answers])
    conditions = np.array([each.item.condition for each in answers])
    labels = np.array([each.item.label for each in answers])
    directions, centres = [], []
    for layer in layers:
        x = means[:, list(kept).index(layer)].astype(np.float64)
        parts = [(x[conditions == name], labels[conditions == name]) for name in set(conditions)]
        differences = np.mean([_differences(*part, against) for part in parts], axis=0)
        read = whiten(unit(differences), within_covariance(parts))
        around = np.concatenate([(x - x[labels == NEUTRAL].mean(axis=0)) @ read.T])
        directions.append(read / around.std(axis=0)[:, None])
        centres.append(x[labels == NEUTRAL].mean(axis=0))
    return _standardised(
        LABELS, tuple(layers), np.array(directions), np.array(centres), kept, plain
    )


def _differences(x: np.ndarray, labels: np.ndarray, against: str) -> np.ndarray:
    """Return a difference per label, (labels, hidden): from the control, or from all others."""
    means = {name: x[labels == name].mean(axis=0) for name in (NEUTRAL, *LABELS)}
    if against == "control":
        return np.array([means[label] - means[NEUTRAL] for label in LABELS])
    return np.array([
        means[label] - np.mean([each for name, each in means.items() if name != label], axis=0)
        for label in LABELS
    ])  # fmt: skip


def _standardised(
    labels: Sequence[str],
    layers: Sequence[int],
    directions: np.ndarray,
    centre: np.ndarray,
    kept: Sequence[int],
    plain: Sequence[Answer],
) -> Reader:
    places = [list(kept).index(layer) for layer in layers]
    whole = np.zeros((len(kept), *directions.shape[1:]), np.float32)
    middle = np.zeros((len(kept), directions.shape[2]), np.float32)
    whole[places], middle[places] = directions, centre
    none, one = np.zeros(len(labels)), np.ones(len(labels))
    raw = Reader(tuple(labels), tuple(kept), whole, middle, none, one)
    z = np.concatenate([raw.tokens(numbers(each.rows)) for each in plain])
    return Reader(tuple(labels), tuple(kept), whole, middle, z.mean(axis=0), z.std(axis=0))


def read(reader: Reader, answers: Sequence[Answer]) -> np.ndarray:
    """Return the statistics of answers, float32 (answers, labels, statistics)."""
    return np.array([statistics(reader.tokens(numbers(each.rows))) for each in answers], np.float32)


CHOICE = Path(__file__).parent / "turning" / "choice.json"


def candidates(layers: Sequence[int], probe_layers: Sequence[int]) -> list[Candidate]:
    """Return what is tried: which layers, answers under which conditions, and against what."""
    sets = [*((layer,) for layer in layers), tuple(probe_layers), tuple(layers)]
    some = (("voice",), ("written",), FITTED)
    return [
        Candidate(chosen, names, against)
        for chosen in sets
        for names in some
        for against in ("control", "all others")
    ]


@dataclass(frozen=True)
class Candidate:
    """Directions of these layers, fitted on the fit pool's answers under these conditions."""

    layers: tuple[int, ...]
    conditions: tuple[str, ...]
    against: str

    def reader(self, answers: Mapping[str, list[Answer]], kept: Sequence[int]) -> Reader:
        """Fit on the answers of the fit pool."""
        mine = [a for a in answers["fit"] if a.item.condition in self.conditions]
        return fitted(mine, self.layers, kept, plain_of(answers), self.against)


def of_labels(read_by: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Return the columns of our labels, (answers, labels, statistics)."""
    return read_by[:, [list(labels).index(label) for label in LABELS]]


def main() -> None:
    """Choose on the tuning pool, or read all pools with what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--choose", action="store_true", help="choose, on the tuning pool alone")
    options = parser.parse_args()
    model = MODELS[options.model]
    probe = Guard.load(model.probe).probe
    if options.choose:
        choose(model, probe)
    else:
        read_all(model, probe)


def choose(model: Model, probe: Probe) -> None:
    """Print the mean AUROC of every candidate on the tuning pool, and keep the best."""
    asked = [i for i in items() if i.pool in {"fit", "tuning", "calibration"}]
    answers = by_pool(model, asked)
    tuning = answers["tuning"]
    table = Table([a.item for a in tuning], [""] * len(tuning))
    shipped = of_probe(probe, model.layers, plain_of(answers))
    theirs = of_labels(read(shipped, tuning), probe.labels)
    best: tuple[float, dict[str, Any]] = (0.0, {})
    for candidate in [None, *candidates(model.layers, probe.layers)]:
        scores = theirs
        if candidate:
            scores = read(candidate.reader(answers, model.layers), tuning)
        for way, both in (("alone", scores), ("with the shipped", scores + theirs)):
            if candidate is None and way != "alone":
                continue
            found = [
                mean_area(table, both[:, :, n], "tuning", FITTED) for n in range(len(STATISTICS))
            ]
            name = "shipped"
            if candidate:
                name = f"{candidate.layers} {candidate.conditions} {candidate.against} {way}"
            print(f"{name:86}", " ".join(f"{one:.3f} {other:.3f}," for one, other in found))
            means = [float(np.mean(each)) for each in found]
            n = int(np.argmax(means))
            if candidate and means[n] > best[0]:
                chosen = {
                    **asdict(candidate),
                    "with_shipped": way != "alone",
                    "statistic": STATISTICS[n],
                    "tuning_auroc": [round(each, 3) for each in found[n]],
                }
                best = means[n], chosen
    CHOICE.write_text(json.dumps({**_choices(), model.name: best[1]}, indent=1) + "\n")
    print(best[1])


def _choices() -> dict[str, Any]:
    return json.loads(CHOICE.read_text()) if CHOICE.exists() else {}


def by_pool(model: Model, asked: Sequence[Item]) -> dict[str, list[Answer]]:
    """Return the answers of each pool."""
    found: dict[str, list[Answer]] = {}
    for answer in load(model, asked):
        found.setdefault(answer.item.pool, []).append(answer)
    return found


def plain_of(answers: Mapping[str, list[Answer]]) -> list[Answer]:
    """Return the plain answers that scores are standardised on, none of the final pool."""
    pools = ("calibration", "tuning")
    return [a for pool in pools for a in answers.get(pool, ()) if a.item.condition == "plain"]


def read_all(model: Model, probe: Probe) -> None:
    """Read all answers with the shipped probe and the chosen directions, and keep the readings.

    Before a choice there are only the shipped probe's.
    """
    chosen = _choices().get(model.name)
    answers = by_pool(model, items())
    every = [answer for pool in answers.values() for answer in pool]
    shipped = read(of_probe(probe, model.layers, plain_of(answers)), every)
    own = {}
    if chosen:
        candidate = Candidate(
            tuple(chosen["layers"]), tuple(chosen["conditions"]), chosen["against"]
        )
        scores = read(candidate.reader(answers, model.layers), every)
        if chosen["with_shipped"]:
            scores += of_labels(shipped, probe.labels)
        own["own"] = scores.astype(np.float16)
    path = KEPT / f"turning-{model.name}-readings.npz"
    np.savez_compressed(
        path,
        keys=[answer.item.key for answer in every],
        shipped=shipped.astype(np.float16),
        statistic=np.array(chosen["statistic"] if chosen else STATISTICS[0]),
        **own,
        labels=np.array(probe.labels),
    )
    print(path)


if __name__ == "__main__":
    main()
