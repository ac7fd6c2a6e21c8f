"""The sink that watches whether a site's responses moved away from its baseline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emoguard.advice import baseline_command
from emoguard.baseline import Baseline, counts
from emoguard.checkpoint import Checkpoint
from emoguard.errors import EmoGuardError
from emoguard.records import Alert, Report
from emoguard_drift.detector import DriftDetector

if TYPE_CHECKING:
    from emoguard.sinks import Site

log = logging.getLogger("emoguard")


class DriftMonitor:
    """Alarms when the means of a site's responses moved away from those of its baseline.

    Responses are averaged in blocks, of the size of the baseline's; see `DriftDetector`. `labels`
    are the baseline's unless given. Without a baseline the monitor is `learning` and never alarms.
    Steered responses, those without a score, those outside the policy's sample and those of other
    model files or probes never count.
    `state` is a file for what was seen, so that a restart keeps the evidence.

    >>> from dataclasses import replace
    >>> from emoguard.records import LabelScore
    >>> from emoguard.testing import make_report
    >>> report, rng = make_report(), np.random.default_rng(1)
    >>> def traffic(count, shift=0.0):
    ...     for mean in rng.normal(shift, 1, count).tolist():
    ...         yield replace(report, scores={"happy": LabelScore(mean, None, 0.5)})
    >>> monitor = DriftMonitor(Baseline.learn(traffic(2500), block_responses=50))
    >>> sum(len(monitor.report(report)) for report in traffic(20_000))
    0
    >>> for n, report in enumerate(traffic(2500, shift=0.5)):
    ...     for alert in monitor.report(report):
    ...         print(n, alert.label, alert.message)
    849 happy responses moved up from the baseline: mean z 0.39, was -0.01
    1749 happy responses moved up from the baseline: mean z 0.44, was -0.01

    Raises:
        EmoGuardError: a label that the baseline lacks, or a state file that cannot be used.

    """

    def __init__(
        self,
        baseline: Baseline | None = None,
        labels: Sequence[str] = (),
        *,
        tolerance_rank: float = 0.1,
        arl_blocks: int = 2000,
        state: str | Path | None = None,
    ) -> None:
        self.baseline = baseline
        self.labels = tuple(labels) or (baseline.labels if baseline else ())
        self.learning = baseline is None
        self.baseline_created = baseline.created if baseline else None
        self._alarms = dict.fromkeys(self.labels, 0)
        self._lock = threading.Lock()
        means = baseline.columns(self.labels) if baseline else np.zeros((1, len(self.labels)))
        self._usual = means.mean(axis=0)
        self._detector = DriftDetector(means, tolerance=tolerance_rank, arl=arl_blocks)
        self._size = baseline.block_responses if baseline else 1
        self._block: list[list[float]] = []
        bound = {
            "baseline": baseline.digest if baseline else None,
            "labels": self.labels,
            "tolerance_rank": tolerance_rank,
            "arl_blocks": arl_blocks,
        }
        self._checkpoint = Checkpoint(None if self.learning else state, bound)
        self._restore()

    @classmethod
    def from_policy(cls, site: Site, *, state: str | None = None) -> Self:
        """Watch the labels of `site` against the baseline that its policy names.

        Where there is no such file yet the monitor is learning, and says so in the log.

        Raises:
            EmoGuardError: the baseline cannot be read, or is of another model file, probe or block
                size, or no label is to be monitored.

        """
        if not site.labels:
            raise EmoGuardError(
                f"no label of {site.probe} was found usable, so there is none to watch: name those "
                "to monitor in labels"
            )
        drift = site.policy.drift
        return cls(
            _baseline(site),
            site.labels,
            tolerance_rank=drift.tolerance_rank,
            arl_blocks=drift.arl_blocks,
            state=state,
        )

    @classmethod
    def check_policy(cls, *, state: str | None = None, **_numbers: float) -> None:
        """Raise if `from_policy` could not use its state file here; leaves nothing behind.

        Raises:
            EmoGuardError: saying why.

        """
        Checkpoint(state, None).check()

    def report(self, report: Report) -> Sequence[Alert]:
        """Take one report; where it ends a block, return an alert for each label that moved."""
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
            self._block.append(means)
            return self._end_block(report.id) if len(self._block) >= self._size else ()

    def evidence(self) -> Mapping[str, float]:
        """Return the evidence for a change by label, as a share of what raises an alarm."""
        with self._lock:
            shares = self._detector.evidence.mean(axis=(0, 1)) / max(self._detector.limit, 1)
        return dict(zip(self.labels, shares.tolist(), strict=True))

    def alarms(self) -> Mapping[str, int]:
        """Return how many alarms each label raised since the process started."""
        with self._lock:
            return dict(self._alarms)

    def close(self) -> None:
        """Save what was seen, a block that is not full included."""
        with self._lock:
            self._checkpoint.save(self._state())

    def _end_block(self, report_id: str) -> Sequence[Alert]:
        means = np.mean(self._block, axis=0)
        self._block = []
        alerts = [self._alert(n, means[n], report_id) for n in self._detector.update(means)]
        self._checkpoint.keep(self._state(), alerts)
        return alerts

    def _alert(self, n: int, mean: float, report_id: str) -> Alert:
        label, usual = self.labels[n], self._usual[n]
        self._alarms[label] += 1
        way = "up" if mean > usual else "down"
        message = f"responses moved {way} from the baseline: mean z {mean:.2f}, was {usual:.2f}"
        return Alert("drift", label, "warning", message, report_id)

    def _state(self) -> dict[str, Any]:
        return {"evidence": self._detector.evidence.tolist(), "block": self._block}

    def _restore(self) -> None:
        state = self._checkpoint.load()
        if state is None:
            return
        try:
            evidence = np.array(state["evidence"], np.float64)
            block = np.array(state["block"], np.float64).reshape(-1, len(self.labels))
            sound = np.all(evidence >= 0) and np.all(np.isfinite(block))
            if evidence.shape != self._detector.evidence.shape or not sound:
                raise ValueError("evidence of other labels")  # noqa: TRY301
        except (ValueError, LookupError, TypeError) as error:
            raise self._checkpoint.broken(error) from error
        self._detector.evidence, self._block = evidence, block.tolist()


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
    baseline.check_fits(site.identity.digest, site.probe, drift.block_responses)
    return baseline
