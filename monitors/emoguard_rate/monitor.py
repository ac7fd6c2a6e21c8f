"""Watches, as a sink, how often labels fire."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.probe.crossing import WINDOW, windows
from emoguard.records import Alert, Report
from emoguard.sinks.checkpoint import Checkpoint
from emoguard_rate.detector import RateDetector

if TYPE_CHECKING:
    from emoguard.site import Site

EVERY = 50
"""Responses between two checkpoints."""

ARL_RESPONSES = 100_000
"""Mean number of responses to a false alarm, where the policy names none."""


class RateMonitor:
    """Alarms when responses cross a label's threshold more often than its certified rate.

    `rates` are crossings per 1,000 window positions by label; labels without one are not watched.
    Responses outside the policy's sample never count, nor those of other model files if `identity`
    (a digest) is given. `arl_responses` is the mean number of responses to the first false alarm,
    all labels together, at least. `state` is a file for the evidence, which then survives a
    restart.

    >>> from emoguard.testing import make_report
    >>> monitor = RateMonitor({"happy": 0.4, "sad": 0.4}, arl_responses=1000)
    >>> usual = make_report()
    >>> sum(len(monitor.report(usual)) for _ in range(500))
    0
    >>> flagged = make_report(rows=np.full((40, 2), [3, 0], np.float32))
    >>> for n in range(3):
    ...     for alert in monitor.report(flagged):
    ...         print(n, alert.label, alert.message)
    2 happy more responses cross the threshold than the certified 0.4 per 1,000 tokens: 3 of 503

    Raises:
        EmoGuardError: a state file that another process holds, an `arl_responses` below 1.

    """

    def __init__(
        self,
        rates: Mapping[str, float],
        *,
        window_tokens: int = WINDOW,
        arl_responses: int = ARL_RESPONSES,
        identity: str | None = None,
        state: str | Path | None = None,
    ) -> None:
        check_arl(arl_responses)
        self.rates = dict(rates)
        self._window = window_tokens
        self._identity = identity
        self._labels = tuple(self.rates)
        self._detector = RateDetector([r / 1000 for r in self.rates.values()], arl_responses)
        self._flagged = dict.fromkeys(self._labels, 0)
        self._alarms = dict.fromkeys(self._labels, 0)
        self._responses = 0
        self._lock = threading.Lock()
        bound = {
            "rates": self.rates,
            "window_tokens": window_tokens,
            "arl_responses": arl_responses,
            "identity": identity,
        }
        self._checkpoint = Checkpoint(state, bound)
        self._checkpoint.open(self._restore)

    @classmethod
    def from_policy(
        cls, site: Site, *, arl_responses: int = ARL_RESPONSES, state: str | None = None
    ) -> Self:
        """Watch the labels of `site` that have a certified threshold, each at its bound."""
        certified = site.thresholds.items()
        return cls(
            {label: each.bound for label, each in certified if each is not None},
            window_tokens=site.policy.alarms.window_tokens,
            arl_responses=arl_responses,
            identity=site.identity.digest,
            state=state,
        )

    @classmethod
    def check_policy(cls, *, arl_responses: int = ARL_RESPONSES, state: str | None = None) -> None:
        """Raise if `from_policy` would refuse its options here; leaves nothing behind.

        Raises:
            EmoGuardError: with the reason.

        """
        check_arl(arl_responses)
        Checkpoint(state, None).check()

    def report(self, report: Report) -> Sequence[Alert]:
        """Take one report; return an alert for each label that fires too often."""
        if report.status != "scored" or not report.sampled:
            return ()
        if self._identity not in (None, report.identity):
            return ()
        firing = [label for label, score in report.scores.items() if score.crossings]
        flagged = [self._labels.index(label) for label in firing if label in self.rates]
        with self._lock:
            return self._take(report, flagged, windows(report.tokens_averaged, self._window))

    def evidence(self) -> Mapping[str, float]:
        """Return the evidence for too high a rate by label, as a share of the alarm's limit."""
        with self._lock:
            shares = self._detector.shares()
        return dict(zip(self._labels, shares.tolist(), strict=True))

    def alarms(self) -> Mapping[str, int]:
        """Return how many alarms each label raised since the process started."""
        with self._lock:
            return dict(self._alarms)

    def faults(self) -> int:
        """Return how often the state file failed since the last call."""
        return self._checkpoint.faults()

    def close(self) -> None:
        """Save the evidence and release the state file."""
        with self._lock:
            self._checkpoint.close(self._state())

    def _take(self, report: Report, flagged: Sequence[int], exposure: int) -> Sequence[Alert]:
        if not exposure or not self._labels:
            return ()
        self._responses += 1
        for n in flagged:
            self._flagged[self._labels[n]] += 1
        alerts = [
            self._alert(self._labels[n], report) for n in self._detector.update(flagged, exposure)
        ]
        if alerts or not self._responses % EVERY:
            self._checkpoint.save(self._state())
        return alerts

    def _alert(self, label: str, report: Report) -> Alert:
        self._alarms[label] += 1
        return Alert(
            "rate",
            label,
            "warning",
            "more responses cross the threshold than the certified "
            f"{self.rates[label]:.3g} per 1,000 tokens: {self._flagged[label]:,} of "
            f"{self._responses:,}",
            report.id,
        )

    def _state(self) -> dict[str, Any]:
        return {
            "responses": self._responses,
            "flagged": self._flagged,
            "evidence": self._detector.evidence.tolist(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over the evidence of an earlier process.

        Raises:
            ValueError, LookupError, TypeError, ArithmeticError: it is of other labels, or damaged.

        """
        evidence = np.array(state["evidence"], np.float64)
        if evidence.shape != self._detector.evidence.shape or not np.all(evidence >= 0):
            raise ValueError("evidence of other labels")
        responses = int(state["responses"])
        self._flagged = {label: int(state["flagged"][label]) for label in self._labels}
        self._responses, self._detector.evidence = responses, evidence


def check_arl(arl_responses: int) -> None:
    """Raise unless there is some response between two false alarms.

    Raises:
        EmoGuardError: with the number.

    """
    if not arl_responses >= 1:
        raise EmoGuardError(
            f"arl_responses: wanted the mean number of responses to a false alarm, at least 1, got "
            f"{arl_responses}: leave it out for {ARL_RESPONSES:,}"
        )
