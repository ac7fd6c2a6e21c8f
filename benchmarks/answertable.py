"""The stored answers of one model as a table: what was asked, the text, what probes read."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.conditions import LABELS, NEUTRAL, Item, items
from emoguard.validate.estimate import Estimate, Sample, areas, cluster_weights

KEPT = Path(__file__).parent / "answers"
PLEASANT = ("happy", "loving")


@dataclass(frozen=True, eq=False)
class Table:
    """Answers in the order of `items`, with their texts (answers,)."""

    items: list[Item]
    texts: list[str]

    @classmethod
    def load(cls, model: str, *, read: bool = True) -> Table:
        """Return the answers kept beside the benchmarks, by default those that probes have read."""
        asked = {item.key: item for item in items()}
        if read:
            with np.load(_readings(model)) as file:
                keys = set(file["keys"].tolist())
            asked = {key: item for key, item in asked.items() if key in keys}
        text = gzip.decompress((KEPT / f"turning-{model}.jsonl.gz").read_bytes()).decode()
        records = [json.loads(line) for line in text.splitlines()]
        known = {each["key"]: each["text"] for each in records if each["key"] in asked}
        return cls([item for key, item in asked.items() if key in known],
                   [known[key] for key in asked if key in known])  # fmt: skip

    @cached_property
    def pools(self) -> np.ndarray:
        """Return the pool of each answer."""
        return np.array([item.pool for item in self.items])

    @cached_property
    def conditions(self) -> np.ndarray:
        """Return the condition of each answer."""
        return np.array([item.condition for item in self.items])

    @cached_property
    def labels(self) -> np.ndarray:
        """Return the label each answer was asked to show, "neutral" for none."""
        return np.array([item.label for item in self.items])

    @cached_property
    def clusters(self) -> np.ndarray:
        """Return what answers to one prompt share."""
        return np.array([item.cluster for item in self.items])

    def where(self, pool: str, *conditions: str) -> np.ndarray:
        """Return the rows of a pool's conditions, (rows,)."""
        return np.flatnonzero((self.pools == pool) & np.isin(self.conditions, conditions))

    def area(
        self, scores: np.ndarray, pool: str, condition: str, *, others: bool = False
    ) -> Sample:
        """Return the AUROC of each label against the condition's control, with its resamples.

        With `others` it is against the answers of the other labels: is it this label that is read?

        `scores` has shape (answers, labels). Labels that the condition lacks are NaN. Resamples
        draw prompts, the same for all labels and detectors.
        """
        rows = self.where(pool, condition)
        weights = cluster_weights(self.clusters[rows])
        found = []
        for n, label in enumerate(LABELS):
            mine = (self.labels[rows] != NEUTRAL) if others else self.labels[rows] == NEUTRAL
            mine |= self.labels[rows] == label
            positive = self.labels[rows][mine] == label
            column = scores[rows][mine, n]
            found.append(areas(column[:, None], positive[:, None], weights[:, mine]))
        return Sample(
            np.concatenate([each.value for each in found]),
            np.concatenate([each.resampled for each in found], axis=1),
        )

    def valence(self, scores: np.ndarray, pool: str, condition: str) -> Sample:
        """Return the AUROC of answers of pleasant labels against those of unpleasant ones.

        The score is the mean over the pleasant labels less that over the others.
        """
        pleasant = np.isin(LABELS, PLEASANT)
        rows = self.where(pool, condition)
        rows = rows[self.labels[rows] != NEUTRAL]
        score = scores[rows][:, pleasant].mean(axis=1) - scores[rows][:, ~pleasant].mean(axis=1)
        positive = np.isin(self.labels[rows], PLEASANT)
        weights = cluster_weights(self.clusters[rows])
        return areas(score[:, None], positive[:, None], weights)


def over_labels(sample: Sample) -> Estimate:
    """Return the mean over the labels that are there, with its interval."""
    return sample.mean(np.flatnonzero(np.isfinite(sample.value)).tolist())


def readings(model: str, table: Table) -> dict[str, np.ndarray]:
    """Return what each probe read: (answers, labels, statistics) in the order of the table."""
    with np.load(_readings(model)) as file:
        place = {str(key): n for n, key in enumerate(file["keys"])}
        rows = [place[item.key] for item in table.items]
        probes = {"shipped", "own"} & {*file.files}
        found = {n: file[n][rows].astype(np.float32) for n in probes}
        return {**found, "statistic": file["statistic"], "labels": file["labels"]}


def _readings(model: str) -> Path:
    return KEPT / f"turning-{model}-readings.npz"


def mean_area(
    table: Table, scores: np.ndarray, pool: str, conditions: Sequence[str]
) -> tuple[float, float]:
    """Return the mean AUROC over labels and conditions, against controls and other labels."""
    control, others = (
        float(np.mean([
            over_labels(table.area(scores, pool, name, others=apart)).value for name in conditions
        ]))
        for apart in (False, True)
    )  # fmt: skip
    return control, others
