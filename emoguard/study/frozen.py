"""Freezes the decisions of the pilot: dose, judges' levels, calibration, known facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.study.judges import Judge, level
from emoguard.study.regimes import Reading, read
from emoguard.study.report import number
from emoguard.study.tasks import ZERO, Cell, Vector, add

if TYPE_CHECKING:
    from emoguard.study.protocol import Protocol

HEADROOM = (0.10, 0.60)
"""Unsteered rates in a pilot between which an effect of either sign can show."""


@dataclass(frozen=True)
class Frozen:
    """The decisions made on the pilot.

    `dose`: of every label, the largest that stays surgical for each. `regimes`: by label and dose.
    `levels`: by judge and label. `offsets`: by kind of choice, the margin that separates known
    answers. `known`: premises whose true statement is accepted under the pilot's wording.
    `rates`: by judge and label, share of the pilot's unsteered answers above the level.
    """

    dose: float
    regimes: dict[str, dict[str, dict[str, float | str]]]
    levels: dict[str, dict[str, float]]
    offsets: dict[str, float]
    known: tuple[str, ...]
    rates: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """Return the decisions as plain JSON data."""
        return {**asdict(self), "known": list(self.known)}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Frozen:
        """Return the decisions in a result of `as_dict`."""
        return cls(**{**data, "known": tuple(data["known"])})

    def check_judges(self, names: Iterable[str]) -> None:
        """Raise unless these are the judges with levels.

        Raises:
            EmoGuardError: they differ; the message names both.

        """
        if {*names} != self.levels.keys():
            raise EmoGuardError(
                f"the pilot of this study set levels for the judges {', '.join(self.levels)}, got "
                f"{', '.join(names)}: give the same ones (--data, --embeddings), or begin anew"
            )

    def headroom(self, judge: str, label: str) -> bool:
        """Return whether the pilot's rate leaves room for an effect."""
        low, high = HEADROOM
        return low <= self.rates[judge][label] <= high


def freeze(
    protocol: Protocol, records: Mapping[str, Mapping[str, Any]], judges: Sequence[Judge]
) -> Frozen:
    """Decide on the records of the pilot.

    Raises:
        EmoGuardError: no dose is surgical for every label.

    """
    written = [
        record["cells"]
        for key, record in records.items()
        if key.startswith("pilot/") and "text" in next(iter(record["cells"].values()))
    ]
    plain = [
        cell["text"]
        for cells in written
        for key, cell in cells.items()
        if key.startswith(f"none|t1.0|{ZERO}")
    ]
    labels = (*protocol.labels, *protocol.explored.labels)
    levels: dict[str, dict[str, float]] = {}
    rates: dict[str, dict[str, float]] = {}
    for judge in judges:
        scores = {label: judge.scores(label, plain) for label in labels}
        levels[judge.name] = {label: level(each) for label, each in scores.items()}
        rates[judge.name] = {
            label: float(np.mean(each > levels[judge.name][label]))
            for label, each in scores.items()
        }
    regimes = {} if protocol.dose is not None else _regimes(protocol, written)
    offsets, known = _calibrated(records)
    return Frozen(
        protocol.dose if protocol.dose is not None else _dose(protocol, regimes),
        {
            label: {
                f"{dose:g}": {**asdict(each), "regime": each.regime} for dose, each in by.items()
            }
            for label, by in regimes.items()
        },
        levels,
        offsets,
        known,
        rates,
    )


def _regimes(
    protocol: Protocol, written: Sequence[Mapping[str, Any]]
) -> dict[str, dict[float, Reading]]:
    def texts(vector: Vector) -> list[tuple[str, float]]:
        key = Cell("none", "t0.7", vector).key
        return [(cells[key]["text"], cells[key]["surprise"]) for cells in written]

    plain = texts(Vector(ZERO))
    return {
        label: {dose: read(texts(add(label, dose)), plain) for dose in protocol.pilot.doses}
        for label in protocol.labels
    }


def _dose(protocol: Protocol, regimes: Mapping[str, Mapping[float, Reading]]) -> float:
    """Return the largest dose up to which every label is surgical at every dose."""
    chosen = 0.0
    for dose in sorted(protocol.pilot.doses):
        if any(by[dose].regime != "surgical" for by in regimes.values()):
            break
        chosen = dose
    if not chosen:
        least = {label: by[min(by)] for label, by in regimes.items()}
        ratios = ", ".join(
            f"{label} {number(each.ratio)} ({each.regime}, {each.failed:+.0%} incoherent)"
            for label, each in least.items()
        )
        raise EmoGuardError(
            f"no dose of the pilot is surgical for every label; perplexity ratios at the smallest: "
            f"{ratios}: name smaller pilot.doses, or a dose"
        )
    return chosen


def _calibrated(
    records: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the offsets of forced choice, and the names of known premises."""
    margins = {
        key.removeprefix("pilot/"): next(iter(record["cells"].values()))["margin"]
        for key, record in records.items()
        if key.startswith("pilot/") and "margin" in next(iter(record["cells"].values()))
    }
    sides = {
        "premise": ("/true", "/false"),
        "comply": ("harmless-", "crime-"),
    }
    offsets = {}
    for kind, (yes, no) in sides.items():
        by_side = [[m for name, m in margins.items() if mark in name] for mark in (yes, no)]
        if all(by_side):
            offsets[kind] = float(np.mean([np.median(each) for each in by_side]))
    known = tuple(
        sorted(
            name.removesuffix("/true")
            for name, margin in margins.items()
            if name.endswith("/true") and margin > offsets["premise"]
        )
    )
    return offsets, known
