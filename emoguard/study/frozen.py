"""Freezes the decisions of the pilot: dose, judges' levels, calibration, known facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.study.judges import Judge, level
from emoguard.study.printed import number
from emoguard.study.regimes import Reading, read
from emoguard.study.tasks import ZERO, Cell, Vector, add

if TYPE_CHECKING:
    from emoguard.study.protocol import Protocol


@dataclass(frozen=True)
class Frozen:
    """The decisions made on the pilot.

    `dose`: of every label, the largest that stays surgical for each. `regimes`: by label and dose.
    `levels`: by judge and label. `offsets`: by kind of choice, the margin that separates known
    answers. `known`: premises whose true statement is accepted under the pilot's wording.
    """

    dose: float
    regimes: dict[str, dict[str, dict[str, float | str]]]
    levels: dict[str, dict[str, float]]
    offsets: dict[str, float]
    known: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the decisions as plain JSON data."""
        return {**asdict(self), "known": list(self.known)}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Frozen:
        """Return the decisions in a result of `as_dict`; what is none is left out."""
        own = {each.name: data[each.name] for each in fields(cls)}
        return cls(**{**own, "known": tuple(data["known"])})

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


def freeze(
    protocol: Protocol, records: Mapping[str, Mapping[str, Any]], judges: Sequence[Judge]
) -> Frozen:
    """Decide on the records of the pilot.

    Raises:
        EmoGuardError: no dose is surgical for every label.

    """
    plain = [text for texts in unsteered(records) for text in texts]
    labels = protocol.judged
    levels = {
        judge.name: {label: level(judge.scores(label, plain)) for label in labels}
        for judge in judges
    }
    regimes = {} if protocol.dose is not None else _regimes(protocol, _written(records))
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
    )


def unsteered(records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the pilot's unsteered answers that set the levels, by prompt."""
    return [
        [cell["text"] for key, cell in cells.items() if key.startswith(f"none|t1.0|{ZERO}")]
        for cells in _written(records)
    ]


def _written(records: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the cells of the pilot's answers, by prompt."""
    return [
        record["cells"]
        for key, record in records.items()
        if key.startswith("pilot/") and "text" in next(iter(record["cells"].values()))
    ]


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
