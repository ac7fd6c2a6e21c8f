"""Freezes a site's own traffic as the reference for drift."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emoguard import jsontext, keptfile, regularfile
from emoguard.advice import calibrate_command
from emoguard.errors import EmoGuardError
from emoguard.sinks.dependence import dependence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.records import Report

ENOUGH_RESPONSES = 1000
"""Fewer responses cannot show the dependence of successive ones."""

ENOUGH_BLOCKS = 50
"""Rows of a baseline file at least; earlier versions kept 50 means of 50 responses."""

MOST_BLOCKS = 10_000
"""More rows would make the file larger and drift no quicker."""

LARGEST_MEAN = 1e6
"""No mean z of a response is as large; sums of squares of larger ones may overflow."""

LARGEST = 32 * 2**20
"""Bytes; a block takes 20 for each label."""


def counts(report: Report) -> bool:
    """Return whether a response belongs to traffic: sampled, scored and left alone by steering.

    Flagged ones belong to it. Both the baseline and drift use this rule.
    """
    scored = report.status == "scored" and bool(report.scores)
    return scored and report.sampled and not report.steered


@dataclass(frozen=True)
class Baseline:
    """Response means of z, one row per response in their order, one column per label.

    For much traffic, a row is the mean of a block of `block_responses` successive responses. Bound
    to the model file and the probe of the readings.
    """

    model: str
    identity: str
    probe: str
    labels: tuple[str, ...]
    block_responses: int
    blocks: tuple[tuple[float, ...], ...]
    created: float

    @classmethod
    def learn(cls, reports: Iterable[Report], block_responses: int | None = None) -> Self:
        """Collect the responses that count, in blocks of `block_responses` if given.

        By default each response is a row up to 10,000 responses; beyond that, rows are means of
        equal blocks, at most 10,000. An incomplete block at the end is dropped.

        Raises:
            EmoGuardError: fewer than 1,000 responses or 50 blocks, or responses of several models,
                probes or labels.

        """
        rows: list[list[float]] = []
        first: Report | None = None
        times: list[float] = []
        others: Counter[str] = Counter()
        for report in reports:
            if not counts(report):
                others[_kind(report)] += 1
                continue
            first = first or report
            _check_same(first, report)
            times.append(report.created)
            rows.append([score.mean for score in report.scores.values()])
        size = block_responses or math.ceil(len(rows) / MOST_BLOCKS) or 1
        enough = max(ENOUGH_RESPONSES, ENOUGH_BLOCKS * size)
        if first is None or len(rows) < enough:
            raise EmoGuardError(
                f"a baseline needs {enough:,} unsteered scored responses, got {len(rows):,}"
                f"{_counted(others)}: {_remedy(others)}{_wait(times, enough)}"
            )
        blocks = len(rows) // size
        whole = np.array(rows[: blocks * size]).reshape(blocks, size, -1)
        return cls(
            model=first.model,
            identity=first.identity,
            probe=first.probe,
            labels=tuple(first.scores),
            block_responses=size,
            blocks=tuple(map(tuple, whole.mean(axis=1).round(5).tolist())),
            created=time.time(),
        )

    @property
    def digest(self) -> str:
        """Return sixteen hex digits that identify the baseline."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    def columns(self, labels: Sequence[str]) -> NDArray[np.float64]:
        """Return the means of `labels`, (blocks, labels).

        Raises:
            EmoGuardError: a label that the baseline does not have.

        """
        missing = [label for label in labels if label not in self.labels]
        if missing:
            raise EmoGuardError(
                f"the baseline has no label {missing[0]}, only {', '.join(self.labels)}: make it "
                "again from a log with the labels of this policy"
            )
        chosen = [self.labels.index(label) for label in labels]
        return np.array(self.blocks, np.float64)[:, chosen]

    def resolution(self, labels: Sequence[str], arl_responses: float) -> dict[str, float]:
        """Return the smallest move of each label's mean z that drift can detect.

        A shift of s standard deviations is distinct from this baseline's own error only if fewer
        responses show it than the baseline has; for normal values, if s ** 2 / 2 > log(ARL labels)
        dependence / n.

        Raises:
            EmoGuardError: a label that the baseline does not have.

        """
        rows = self.columns(labels)
        nats = math.log(max(arl_responses / self.block_responses * len(labels), 1))
        least = np.sqrt(2 * nats * dependence(rows) / len(rows)) * rows.std(axis=0)
        return dict(zip(labels, least.tolist(), strict=True))

    def check_fits(self, identity: str, probe: str) -> None:
        """Refuse to serve another model file or probe.

        Raises:
            EmoGuardError: the message names the difference.

        """
        for name, own, wanted in (
            ("model file", self.identity, identity),
            ("probe", self.probe, probe),
        ):
            if own != wanted:
                raise EmoGuardError(
                    f"the baseline is for {name} {own}, got {wanted}: make one with emoguard "
                    "baseline from this site's own log"
                )

    def save(self, path: str | Path) -> None:
        """Write the baseline as JSON. The file appears whole or not at all.

        Raises:
            EmoGuardError: it cannot be written.

        """
        try:
            keptfile.replace(path, json.dumps({"version": 1, **asdict(self)}))
        except OSError as error:
            raise EmoGuardError(f"baseline {path} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a baseline.

        Raises:
            EmoGuardError: the file cannot be read, or is no sound baseline.

        """
        try:
            data = regularfile.read(path, LARGEST)
            return cls._sound(jsontext.parse(data, largest=LARGEST))
        except OSError as error:
            raise EmoGuardError(f"baseline {path} cannot be read: {error.strerror}") from error
        except (EmoGuardError, ValueError, LookupError, TypeError) as error:
            raise EmoGuardError(
                f"{path} is no sound baseline ({type(error).__name__}: {error!s:.100}): make it "
                "with emoguard baseline"
            ) from error

    @classmethod
    def _sound(cls, data: Any) -> Self:
        if data["version"] != 1:
            raise ValueError("wanted version 1")
        texts = [data["model"], data["identity"], data["probe"], *data["labels"]]
        blocks = np.array(data["blocks"], np.float64)
        block, created = data["block_responses"], data["created"]
        sound = (
            all(isinstance(text, str) for text in texts)
            and isinstance(data["labels"], list)
            and blocks.ndim == 2
            and blocks.shape[1] == len(data["labels"])
            and len(blocks) >= ENOUGH_BLOCKS
            and np.all(np.abs(blocks) < LARGEST_MEAN)
            and type(block) is int
            and block > 0
            and isinstance(created, int | float)
        )
        if not sound:
            raise ValueError(f"wanted {ENOUGH_BLOCKS} blocks of means or more, by label")
        return cls(
            model=data["model"],
            identity=data["identity"],
            probe=data["probe"],
            labels=tuple(data["labels"]),
            block_responses=block,
            blocks=tuple(map(tuple, blocks.tolist())),
            created=float(created),
        )


def _kind(report: Report) -> str:
    """Return the reason why a response does not count."""
    if report.status != "scored":
        return report.status
    return "steered" if report.steered else "without scores or outside the sample"


def _counted(others: Counter[str]) -> str:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common())
    return f" beside {counts}" if counts else ""


def _remedy(others: Counter[str]) -> str:
    if others["uncalibrated"]:
        return f"calibrate the model with {calibrate_command()}, and let traffic pass"
    return "let more traffic pass"


def _wait(times: Sequence[float], enough: int) -> str:
    """Say how long the rest takes at the rate that responses came at so far, if that is known."""
    span = max(times, default=0.0) - min(times, default=0.0)
    if not span > 0:
        return ""
    rate = (len(times) - 1) / span
    return (
        f"; at the log's {duration(1 / rate)} a response the other {enough - len(times):,} take "
        f"{duration((enough - len(times)) / rate)}"
    )


def duration(seconds: float) -> str:
    """Return a time in its largest whole unit."""
    for name, unit in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} seconds"


def _check_same(first: Report, report: Report) -> None:
    for name in ("identity", "probe"):
        before, now = getattr(first, name), getattr(report, name)
        if before != now:
            raise EmoGuardError(
                f"a baseline is of one model file and one probe, got {name} {before} and {now}: "
                "take the lines of one"
            )
    if tuple(first.scores) != tuple(report.scores):
        raise EmoGuardError(
            f"a baseline is of one list of labels, got {', '.join(first.scores)} and "
            f"{', '.join(report.scores)}: take the lines of one"
        )
