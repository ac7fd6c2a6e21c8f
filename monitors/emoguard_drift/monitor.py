"""A sink that alarms when a site's responses moved away from its baseline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emoguard.advice import baseline_command
from emoguard.errors import EmoGuardError
from emoguard.records import Alert, Report
from emoguard.sinks.baseline import ENOUGH_RESPONSES, Baseline, counts
from emoguard.sinks.checkpoint import Checkpoint
from emoguard_drift.detector import DriftDetector

if TYPE_CHECKING:
    from emoguard.site import Site

log = logging.getLogger("emoguard")

EVERY = 50
"""Responses between two checkpoints."""

RECENT = 50
"""Responses over which the mean in an alert is taken, exponentially weighted."""

STATISTIC = "rows and blocks"
"""Version of the evidence in a state file; other versions are discarded."""


class DriftMonitor:
    """Alarms when the means of a site's responses moved away from those of its baseline.

    Every response is taken as it comes, in blocks only where the baseline has blocks; see
    `DriftDetector`. `labels` are the baseline's unless given. Without a baseline the monitor is
    `learning` and never alarms. Steered responses, those without a score, those outside the
    policy's sample and those of other model files or probes never count. `block_responses` is the
    unit of `tolerance_rank`, the shift of a block's mean rank that is tolerated, and of
    `arl_blocks`, the mean number of blocks to the first false alarm. `state` is a file for the
    evidence, which then survives a restart.

    >>> from dataclasses import replace
    >>> from emoguard.records import LabelScore
    >>> from emoguard.testing import make_report
    >>> report, rng = make_report(), np.random.default_rng(1)
    >>> def traffic(count, shift=0.0):
    ...     for mean in rng.normal(shift, 1, count).tolist():
    ...         yield replace(report, scores={"happy": LabelScore(mean, None, 0.5)})
    >>> monitor = DriftMonitor(Baseline.learn(traffic(2500)))
    >>> sum(len(monitor.report(report)) for report in traffic(20_000))
    0
    >>> for n, report in enumerate(traffic(2500, shift=0.5)):
    ...     for alert in monitor.report(report):
    ...         print(n, alert.label, alert.message)
    164 happy responses moved up from the baseline: mean z lately 0.56, was -0.01
    1329 happy responses moved up from the baseline: mean z lately 0.91, was -0.01

    Raises:
        EmoGuardError: a label that the baseline lacks, or a state file that another process holds.

    """

    def __init__(
        self,
        baseline: Baseline | None = None,
        labels: Sequence[str] = (),
        *,
        tolerance_rank: float = 0.1,
        arl_blocks: int = 2000,
        block_responses: int = 50,
        state: str | Path | None = None,
    ) -> None:
        self.baseline = baseline
        self.labels = tuple(labels) or (baseline.labels if baseline else ())
        self.learning = baseline is None
        self.baseline_created = baseline.created if baseline else None
        self._alarms = dict.fromkeys(self.labels, 0)
        self._lock = threading.Lock()
        self._sum, self._count = np.zeros(len(self.labels)), 0
        self._unsaved = 0
        bound = {
            "statistic": STATISTIC,
            "baseline": baseline.digest if baseline else None,
            "labels": self.labels,
            "tolerance_rank": tolerance_rank,
            "arl_blocks": arl_blocks,
            "block_responses": block_responses,
        }
        self._checkpoint = Checkpoint(None if baseline is None else state, bound)
        if baseline is None:
            return
        rows = baseline.columns(self.labels)
        self._usual = rows.mean(axis=0)
        self._recent = self._usual.copy()
        self._detector = DriftDetector(
            rows,
            tolerance=tolerance_rank,
            block=max(1, round(block_responses / baseline.block_responses)),
            arl=arl_blocks * block_responses / baseline.block_responses,
        )
        self._checkpoint.open(self._restore)

    @classmethod
    def from_policy(cls, site: Site, *, state: str | None = None) -> Self:
        """Watch the labels of `site` against the baseline that its policy names.

        Until there is such a file the monitor is learning, and the log says so.

        Raises:
            EmoGuardError: the baseline cannot be read, or is of another model file or probe, or no
                label is to be monitored.

        """
        if not site.labels:
            raise EmoGuardError(
                f"no label of {site.probe.name} was found usable, so there is none to watch: "
                "name those to monitor in labels"
            )
        drift = site.policy.drift
        return cls(
            _baseline(site),
            site.labels,
            tolerance_rank=drift.tolerance_rank,
            arl_blocks=drift.arl_blocks,
            block_responses=drift.block_responses,
            state=state,
        )

    @classmethod
    def check_policy(cls, *, state: str | None = None, **_numbers: float) -> None:
        """Raise if `from_policy` could not use its state file here; leaves nothing behind.

        Raises:
            EmoGuardError: with the reason.

        """
        Checkpoint(state, None).check()

    def report(self, report: Report) -> Sequence[Alert]:
        """Take one report; return an alert for each label that moved."""
        baseline, scores = self.baseline, report.scores
        if baseline is None or not counts(report):
            return ()
        if (report.identity, report.probe) != (baseline.identity, baseline.probe):
            return ()
        try:
            means = [scores[label].mean for label in self.labels]
        except KeyError:
            return ()
        with self._lock:
            alerts = self._take(means, baseline.block_responses, report.id)
            self._unsaved += 1
            if alerts or self._unsaved >= EVERY:
                self._unsaved = 0
                self._checkpoint.save(self._state())
        return alerts

    def evidence(self) -> Mapping[str, float]:
        """Return the evidence for a change by label; 1 raises an alarm."""
        if self.learning:
            return dict.fromkeys(self.labels, 0.0)
        with self._lock:
            shares = self._detector.evidence()
        return dict(zip(self.labels, shares.tolist(), strict=True))

    def alarms(self) -> Mapping[str, int]:
        """Return the number of alarms for each label since the process started."""
        with self._lock:
            return dict(self._alarms)

    def faults(self) -> int:
        """Return the number of failures of the state file since the last call."""
        return self._checkpoint.faults()

    def close(self) -> None:
        """Save the state, a partial block included; release the state file."""
        if self.learning:
            return
        with self._lock:
            self._checkpoint.close(self._state())

    def _take(self, means: list[float], size: int, report_id: str) -> list[Alert]:
        row = np.array(means)
        self._recent += (row - self._recent) * (2 / (RECENT + 1))
        self._sum += row
        self._count += 1
        if self._count < size:
            return []
        moved = self._detector.update(self._sum / size)
        self._sum[:], self._count = 0, 0
        return [self._alert(n, way, report_id) for n, way in moved.items()]

    def _alert(self, n: int, way: int, report_id: str) -> Alert:
        label = self.labels[n]
        self._alarms[label] += 1
        message = (
            f"responses moved {'up' if way > 0 else 'down'} from the baseline: mean z lately "
            f"{self._recent[n]:.2f}, was {self._usual[n]:.2f}"
        )
        return Alert("drift", label, "warning", message, report_id)

    def _state(self) -> dict[str, Any]:
        return {
            "detector": self._detector.state(),
            "sum": self._sum.tolist(),
            "count": self._count,
            "recent": self._recent.tolist(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Resume the evidence of an earlier process.

        Raises:
            ValueError, LookupError, TypeError, ArithmeticError: it has other labels, or is damaged.

        """
        total, recent = np.array([state["sum"], state["recent"]], np.float64)
        count = int(state["count"])
        if total.shape != self._usual.shape or not np.all(np.isfinite(total + recent)):
            raise ValueError("means of other labels")
        if self.baseline is None or not 0 <= count < self.baseline.block_responses:
            raise ValueError("a block of another size")
        self._detector.restore(state["detector"])
        self._sum, self._count, self._recent = total, count, recent


def _baseline(site: Site) -> Baseline | None:
    """Return the baseline that the site's policy names, None where there is none yet."""
    drift = site.policy.drift
    if drift.baseline is None:
        return None
    if not Path(drift.baseline).exists():
        log.warning(
            "drift is learning: there is no baseline %s yet; make it with %s, and start again",
            drift.baseline,
            baseline_command(out=drift.baseline),
        )
        return None
    baseline = Baseline.load(drift.baseline)
    baseline.check_fits(site.identity.digest, site.probe.name)
    if len(baseline.blocks) < ENOUGH_RESPONSES:
        log.warning(
            "the baseline %s has %d means of %d responses: alarms come sooner with one made again "
            "with emoguard baseline, from single responses",
            drift.baseline,
            len(baseline.blocks),
            baseline.block_responses,
        )
    return baseline
