"""Puts probe, calibrations, policy and sinks together: the guard."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from emoguard.arguments import (
    check_functions,
    checked_calibrations,
    checked_probe,
    checked_sinks,
)
from emoguard.clock import Moment
from emoguard.errors import EmoGuardError
from emoguard.notices.outbox import Outbox
from emoguard.policy.policy import Policy
from emoguard.policy.reload import PolicyFile, PolicySource, open_policy
from emoguard.probe.calibration import Calibration
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.probe import Probe
from emoguard.probe.shipped import load_probe
from emoguard.records import Alert, Channel, Report
from emoguard.sinks.protocols import Sink
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard.steering.prepare import prepare


class Guard:
    """Holds a probe, its calibrations, a policy and the sinks that take the reports.

    One guard may watch several models: `site` is the guard on one model file, and finished reports
    go through `outbox`. `policy` is a Policy, a mapping with the keys of one, or the path of a YAML
    file, which the guard follows from one response to the next (a `PolicyFile` does the same and is
    for one guard). `alerts` holds the last alerts, of monitors (which are logged, too) and of
    crossings noticed while a response was generated; `on_alert` is called with the latter, in a
    thread of its own, if the policy says `on_alert: callback` or `stop`. `now` is the clock of
    notices.

    `labels` are read and reported; of these, `monitored` may alarm and are shown to sinks. Labels
    that validation did not find usable are monitored only if the policy names them. `sinks` take
    the reports; `unopened` names the sinks of the policy if the guard was given none: only
    `open_guard` opens those.

    Raises:
        EmoGuardError: an argument of another type, a policy that is not sound, unknown labels, or
            amplifying ones that cannot rise.

    """

    def __init__(
        self,
        probe: Probe,
        calibrations: Iterable[Calibration] = (),
        policy: PolicySource | None = None,
        sinks: Iterable[Sink] = (),
        on_alert: Callable[[Alert], None] | None = None,
        *,
        now: Callable[[], Moment] | None = None,
    ) -> None:
        check_functions(on_alert=on_alert, now=now)
        self.probe = checked_probe(probe)
        self.source = open_policy(policy)
        self.labels = self.policy.labels or probe.labels
        probe.indices(self.labels)  # an unknown one is refused here
        verdicts = probe.verdicts
        self.monitored = self.policy.monitored({n: verdicts.get(n) for n in self.labels})
        self._check_amplifying(self.policy)
        self.calibrations = checked_calibrations(calibrations)
        for calibration in self.calibrations:
            calibration.check_fits(len(probe.labels), len(probe.layers))
        self.sinks = checked_sinks(sinks)
        self.unopened = () if self.sinks else tuple(n for sink in self.policy.sinks for n in sink)
        self._watched: list[tuple[Site, Callable[[Steering], None]]] = []
        self.outbox = Outbox(lambda: self.policy, self.sinks, on_alert, now)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        policy: PolicySource | None = None,
        sinks: Iterable[Sink] = (),
    ) -> Self:
        """Make a guard from a probe file, or from a shipped probe by its name.

        Raises:
            EmoGuardError: there is no such probe, the file is no sound probe file, or the policy
                does not fit it.

        """
        return cls(*load_probe(path), policy, sinks)

    @property
    def policy(self) -> Policy:
        """Return the policy in force."""
        return self.source.policy

    @property
    def policy_file(self) -> PolicyFile | None:
        """Return the file that the policy follows, None without one."""
        return self.source if isinstance(self.source, PolicyFile) else None

    @property
    def alerts(self) -> deque[Alert]:
        """Return the last alerts, newest last, at most `Policy.keep_reports`."""
        return self.outbox.alerts

    def refresh(self) -> None:
        """Follow the policy's file, if it has one: called at the start and end of a response."""
        self.source.refresh(self.check)

    def check(self, policy: Policy) -> None:
        """Raise if this policy cannot be applied to the probe, its calibrations and the watches.

        Raises:
            EmoGuardError: unknown labels, amplifying ones that cannot rise, a standing plan that is
                not allowed.

        """
        self.probe.indices(policy.labels)
        self._check_amplifying(policy)
        plan, bound = policy.steering.plan, policy.steering.max_dose_ratio
        if plan.is_empty:
            return
        for calibration in self.calibrations or (None,):
            prepare(plan, self.probe, calibration, bound)
        for site, refuse in tuple(self._watched):
            refuse(prepare(plan, self.probe, site.calibration, bound))

    def watch(self, site: Site, refuse: Callable[[Steering], None]) -> Callable[[], None]:
        """Also check reloaded policies against a watch on `site`. Return a function that ends this.

        `refuse` raises on steering that the watch cannot do.
        """
        watched = site, refuse
        self._watched.append(watched)
        return lambda: self._watched.remove(watched)

    def site(self, identity: ModelIdentity, backend: str = "") -> Site:
        """Return this guard on one model file."""
        calibration = self.calibration(identity)
        return Site(
            self.probe, self.source, identity, calibration, self.labels, self.monitored, backend
        )

    def calibration(self, identity: ModelIdentity) -> Calibration | None:
        """Return the calibration made on exactly this model file, None when there is none."""
        return next((c for c in self.calibrations if c.identity.matches(identity)), None)

    def open(self) -> None:
        """Open the state file of notices, if the policy names one, as `attach` does. Idempotent.

        Raises:
            EmoGuardError: another process holds that file.

        """
        self.outbox.open()

    def deliver(self, report: Report, channel: Channel) -> None:
        """Declare that a server gave the notice of a report to its client. Idempotent."""
        self.outbox.deliver(report, channel)

    def lost(self, report: Report) -> None:
        """Declare that a report's notice did not reach its client: it is due again."""
        self.outbox.lost(report)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the sinks have seen every report; False when they need longer."""
        return self.outbox.flush(timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Flush and end the sinks' threads. A guard may be used again afterwards.

        Notices that are still on their way count as lost.
        """
        self.outbox.close(timeout)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_amplifying(self, policy: Policy) -> None:
        """Raise if an amplifying label has no threshold here to rise over."""
        for label in policy.notices.amplifying:
            if label not in self.labels:
                raise EmoGuardError(
                    f"notices.amplifying: {label:.60} is not read, so it never rises: take it out, "
                    f"or choose of those that are: {', '.join(self.labels)}"
                )
            if label not in self.monitored:
                verdict = self.probe.verdicts[label]
                raise EmoGuardError(
                    f"notices.amplifying: the verdict on {label} is {verdict}: it is not "
                    "monitored here and never rises; restart with it, or take it out"
                )
