"""The guard: probe, calibrations, policy and sinks put together; turns a reading into a report."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from emoguard.annotation import describe
from emoguard.calibration import Calibration
from emoguard.crossing import Crossings, count, rolling_mean
from emoguard.delivery import Delivery
from emoguard.errors import EmoGuardError
from emoguard.ledger import Ledger
from emoguard.phases import REASONING
from emoguard.plan import Plan
from emoguard.policy import Policy
from emoguard.probe import Probe
from emoguard.protocols import ShowsNotices
from emoguard.records import PHASES, LabelScore, Receipt, Report, Steered, TokenScore
from emoguard.reload import PolicyFile, PolicySource, open_policy
from emoguard.shipped import load_probe
from emoguard.sinks import Site
from emoguard.steering import Steering, prepare

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from emoguard.certificate import Threshold
    from emoguard.identity import ModelIdentity
    from emoguard.notice import Moment
    from emoguard.probe import Readout
    from emoguard.protocols import Sink
    from emoguard.records import Alert, Channel, Phase, Reading, Request, Status


class Guard:
    """What to read, what is ordinary, and who is told.

    One guard may watch several models. `report` is a pure function of its arguments; `note` adds
    the notice that is due; only `publish`, `deliver` and `lost` talk to the sinks. `alerts` holds
    the last alerts, of monitors (which are logged, too) and of crossings noticed while a response
    was generated; `on_alert` is called with the latter, in a thread of its own, where the policy
    says `on_alert: callback` or `stop`. `policy` is a Policy, a mapping with the keys of one, or
    the path of a YAML file, which the guard follows from one response to the next (a `PolicyFile`
    does the same and is for one guard). `now` tells the time to notices.

    `labels` are read and reported; of these, `monitored` may alarm and are what sinks watch. Labels
    that validation did not find usable are monitored only where the policy names them. `unopened`
    names the sinks of the policy if the guard was given none: only `open_guard` opens those.

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
        if not isinstance(probe, Probe):
            raise EmoGuardError(
                f"probe: wanted a Probe, got {describe(probe)}: Guard.load opens a probe file, or "
                "a shipped probe by its name"
            )
        _check_called(on_alert=on_alert, now=now)
        sinks = _checked_sinks(sinks)
        self.probe = probe
        opened = open_policy(policy)
        self.policy_file = opened if isinstance(opened, PolicyFile) else None
        self._policy = opened if isinstance(opened, Policy) else opened.policy
        self.labels = self.policy.labels or probe.labels
        verdicts = probe.verdicts
        self.monitored = self.policy.monitored({n: verdicts.get(n) for n in self.labels})
        self._check_amplifying(self.policy)
        self.alerts: deque[Alert] = deque(maxlen=self.policy.keep_reports)
        self._columns = probe.indices(self.labels)
        self.calibrations = _checked_calibrations(calibrations)
        for calibration in self.calibrations:
            calibration.check_fits(len(probe.labels), len(probe.layers))
        self._served: list[tuple[ModelIdentity, Callable[[Steering], None]]] = []
        self._thresholds = {c: self._certified(c) for c in self.calibrations}
        self.unopened = () if sinks else tuple(n for sink in self.policy.sinks for n in sink)
        named = [(f"sink:{type(sink).__name__}", sink.report) for sink in sinks]
        self._delivery: Delivery[Report] = Delivery(named, self.alerts)
        self.ledger = Ledger(lambda: self.policy.notices, now, self._delivery.send)
        for sink in sinks:
            if isinstance(sink, ShowsNotices):
                sink.show_notices(self.ledger)
        calls = [("callback", _returning_nothing(on_alert))] if on_alert is not None else []
        self._calls: Delivery[Alert] = Delivery(calls, self.alerts)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        policy: PolicySource | None = None,
        sinks: Iterable[Sink] = (),
    ) -> Self:
        """Make a guard from a probe file, or from a shipped probe by its name.

        Raises:
            EmoGuardError: there is no such probe, the file is no sound probe file, or a policy it
                cannot serve.

        """
        return cls(*load_probe(path), policy, sinks)

    @property
    def policy(self) -> Policy:
        """Return the policy in force."""
        return self._policy if self.policy_file is None else self.policy_file.policy

    def refresh(self) -> None:
        """Follow the policy's file, if it has one: called where a response begins and ends."""
        if self.policy_file is not None:
            self.policy_file.refresh(self.check)

    def check(self, policy: Policy) -> None:
        """Refuse a policy that this probe, these calibrations and their watches cannot serve.

        Raises:
            EmoGuardError: unknown labels, amplifying ones that cannot rise, a standing plan that
                cannot be.

        """
        self.probe.indices(policy.labels)
        self._check_amplifying(policy)
        steering = policy.steering
        if not steering.plan.is_empty:
            for calibration in self.calibrations or (None,):
                prepare(steering.plan, self.probe, calibration, steering.max_dose_ratio)
            for identity, refuse in tuple(self._served):
                own = self.calibration(identity)
                refuse(prepare(steering.plan, self.probe, own, steering.max_dose_ratio))

    def serve(
        self, identity: ModelIdentity, refuse: Callable[[Steering], None] = lambda _: None
    ) -> Callable[[], None]:
        """Have policies that come later checked for a watch on `identity`, too.

        `refuse` raises on steering that the watch cannot do. Returned is what ends this.
        """
        served = identity, refuse
        self._served.append(served)
        return lambda: self._served.remove(served)

    def site(self, identity: ModelIdentity, backend: str = "") -> Site:
        """Return what sinks may know that are opened for one model file; see `Site`."""
        return Site(
            policy=self.policy,
            labels=self.monitored,
            identity=identity,
            probe=self.probe.name,
            calibration=self.calibration(identity),
            policy_file=self.policy_file,
            backend=backend,
            thresholds=tuple(
                threshold
                for label, threshold in zip(self.labels, self.thresholds(identity), strict=True)
                if label in self.monitored
            ),
        )

    def calibration(self, identity: ModelIdentity) -> Calibration | None:
        """Return the calibration made on exactly this model file, None when there is none."""
        return next((c for c in self.calibrations if c.identity.matches(identity)), None)

    def thresholds(self, identity: ModelIdentity) -> tuple[Threshold | None, ...]:
        """Return the certified alarm threshold of each of `labels`; None where none can be.

        Each monitored label may fire at an equal share of the policy's family rate; the others have
        none. A calibration for another window or hysteresis than the policy's certifies nothing.
        """
        calibration = self.calibration(identity)
        if calibration is None:
            return (None,) * len(self.labels)
        return self._thresholds[calibration]

    def crossings(self, identity: ModelIdentity) -> Crossings:
        """Return what counts the crossings of one response on this model while it is generated."""
        alarms = self.policy.alarms
        levels = _levels(self.thresholds(identity))
        return Crossings(levels.tolist(), alarms.window_tokens, alarms.hysteresis_sd)

    def readout(self, identity: ModelIdentity) -> Readout:
        """Return what the hooks multiply with on this model: z where calibrated, else raw."""
        return self.probe.fold(self.calibration(identity), self.labels)

    def steering(self, plan: Plan | None, identity: ModelIdentity) -> Steering | None:
        """Return what `plan`, laid over the policy's, does here; None when that is nothing.

        A plug-in asks where a response begins, so a policy file that changed is read first.

        Raises:
            EmoGuardError: a plan beyond the policy, for another probe, or without a calibration.

        """
        self.refresh()
        policy = self.policy.steering
        allowed, asked = policy.allow(Plan() if plan is None else Plan.parse(plan))
        if allowed.is_empty:
            return None
        made = prepare(allowed, self.probe, self.calibration(identity), policy.max_dose_ratio)
        return dataclasses.replace(made, asked=asked)

    def report(self, reading: Reading, request: Request, faults: Sequence[str] = ()) -> Report:
        """Summarise one reading. Pure: same arguments, same report (but for its time stamp)."""
        fresh = np.isfinite(reading.rows).all(axis=1)
        status = self._status(reading, bool(fresh.all()))
        answering = reading.phases != REASONING
        at_sink = np.arange(len(reading.rows)) < reading.attention_sinks
        scored = status in ("scored", "uncalibrated", "cancelled")
        rows = reading.rows[fresh & answering & ~at_sink] if scored else reading.rows[:0]
        return Report(
            id=request.id,
            call=request.call,
            conversation=request.conversation,
            status=status,
            model=reading.identity.name,
            backend=reading.backend,
            probe=self.probe.name,
            identity=reading.identity.digest,
            finish=reading.finish,
            completion_tokens=len(reading.token_ids),
            tokens_scored=int(fresh.sum()),
            scores=self._scores(rows, reading.identity),
            short=len(rows) < self.policy.alarms.window_tokens,
            phases=_phase_counts(reading.phases),
            tokens=_token_scores(reading) if request.scores == "tokens" else (),
            overhead_seconds=reading.seconds,
            receipt=_receipt(reading.steered),
            detail=_detail(reading),
            faults=(*faults, *_broken(reading)),
            denied=request.denied,
            attention_sinks=int((answering & at_sink).sum()),
        )

    def note(self, report: Report, request: Request, decode: Callable[[], str]) -> Report:
        """Return the report with the notice that its user is to be given, if one is due.

        `decode` makes the response's text; it is called only where somebody looks at it. Whatever
        breaks is counted and logged once.
        """
        return self.ledger.decide(report, request, decode)

    def publish(self, report: Report, carrier: Literal["process", "server"] = "process") -> Report:
        """Hand a report to the sinks; return it with the parts that failed since the last one.

        Of plain scored responses only the policy's sample goes to the sinks. Every report says
        whether it belongs to the sample: rates hold over that alone. One with a notice goes there
        when it is known what became of that: at once in this process, where the caller has the
        report, unless the response was broken off; by `deliver` or `lost` from a server.
        """
        found = (self._delivery, self._calls, self.ledger)
        faults = (*report.faults, *(fault for part in found for fault in part.faults()))
        sampled = self.policy.samples(report.id)
        report = dataclasses.replace(report, faults=faults, sampled=sampled)
        if report.notice is None:
            if sampled or not self._is_plain(report):
                self._delivery.send(report)
        elif report.finish in ("cancelled", "error") or self.ledger.has_left(report.call):
            report = self._settle(report, None)
        elif carrier == "process":
            report = self._settle(report, "field")
        else:
            self.ledger.carry(report)
        self.refresh()
        return report

    def deliver(self, report: Report, channel: Channel) -> None:
        """Say that a server gave the notice of a report to its client. Idempotent; never raises.

        Without a notice, or where it is known already what became of it, nothing happens.
        """
        if self.ledger.take(report):
            self._settle(report, channel)

    def lost(self, report: Report) -> None:
        """Say that a report's notice did not reach its client: it is due again. As `deliver`."""
        if self.ledger.take(report):
            self._settle(report, None)

    def _settle(self, report: Report, channel: Channel | None) -> Report:
        told = self.ledger.settled(report, channel)
        self._delivery.send(told)
        return told

    def _is_plain(self, report: Report) -> bool:
        well = report.status in ("scored", "uncalibrated") and report.finish != "halted"
        return well and not (report.steered or report.faults or report.denied)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the sinks have seen every report; False when they need longer."""
        done = [part.flush(timeout) for part in (self._delivery, self._calls, self.ledger)]
        return all(done)

    def close(self, timeout: float = 10.0) -> None:
        """Flush and end the sinks' threads. A guard may be used again afterwards.

        Notices that are still on their way count as lost.
        """
        for report in self.ledger.waiting():
            self.lost(report)
        self._delivery.close(timeout)
        self._calls.close(timeout)
        self.ledger.close(timeout)

    def alert(self, alert: Alert) -> None:
        """Keep an alert raised while a response is generated, and call `on_alert` with it."""
        self.alerts.append(alert)
        self._calls.send(alert)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _status(self, reading: Reading, all_fresh: bool) -> Status:
        if reading.skipped:
            return "skipped"
        if reading.fault:
            return "error"
        if not all_fresh:
            return "incomplete"
        if reading.finish == "cancelled":
            return "cancelled"
        return "scored" if self.calibration(reading.identity) else "uncalibrated"

    def _check_amplifying(self, policy: Policy) -> None:
        """Refuse amplifying labels that have no threshold here to rise over."""
        for label in policy.notices.amplifying:
            if label not in self.labels:
                raise EmoGuardError(
                    f"notices.amplifying: {label:.60} is not read, so it never rises: take it out, "
                    f"or choose of those that are: {', '.join(self.labels)}"
                )
            if label not in self.monitored:
                raise EmoGuardError(
                    f"notices.amplifying: {label} was found {self.probe.verdicts[label]} and is "
                    "not monitored here, so it never rises: restart with it, or take it out"
                )

    def _certified(self, calibration: Calibration) -> tuple[Threshold | None, ...]:
        alarms, curve = self.policy.alarms, calibration.curve
        wanted = alarms.window_tokens, alarms.hysteresis_sd
        if curve is None or (curve.window, curve.hysteresis) != wanted:
            return (None,) * len(self.labels)
        share = alarms.rate_per_1000_tokens / max(1, len(self.monitored))
        return tuple(
            calibration.threshold(column, share) if label in self.monitored else None
            for label, column in zip(self.labels, self._columns, strict=True)
        )

    def _scores(self, rows: NDArray[np.float32], identity: ModelIdentity) -> dict[str, LabelScore]:
        if not len(rows):
            return {}
        alarms, width = self.policy.alarms, rows.shape[1]
        means = rows.mean(axis=0, dtype=np.float64)
        rolling = rolling_mean(rows, alarms.window_tokens)
        peaks = rolling.max(axis=0).tolist() if len(rolling) else [None] * width
        calibration = self.calibration(identity)
        ranks: Sequence[float | None] = [None] * width
        if calibration is not None:
            ranks = calibration.rank(means, self._columns).tolist()
        thresholds = self.thresholds(identity)
        crossed = count(rolling, _levels(thresholds), alarms.hysteresis_sd).tolist()
        verdicts = self.probe.verdicts
        return {
            label: LabelScore(
                float(mean),
                peak,
                rank,
                None if threshold is None else crossings,
                verdicts.get(label),
            )
            for label, mean, peak, rank, threshold, crossings in zip(
                self.labels, means, peaks, ranks, thresholds, crossed, strict=True
            )
        }


def check_guard(guard: Any) -> None:
    """Raise unless this is a guard.

    Raises:
        EmoGuardError: naming what came.

    """
    if not isinstance(guard, Guard):
        raise EmoGuardError(
            f"guard: wanted a Guard, got {describe(guard)}: make one with Guard.load(probe file or "
            "name, policy) or open_guard(model, policy, probe)"
        )


def _checked_calibrations(calibrations: Iterable[Calibration]) -> tuple[Calibration, ...]:
    listed = tuple(calibrations) if isinstance(calibrations, Iterable) else None
    others = [each for each in listed or () if not isinstance(each, Calibration)]
    if listed is None or others:
        got = describe(calibrations if listed is None else others[0])
        raise EmoGuardError(
            f"calibrations: wanted a list of Calibration, got {got}: a policy goes into policy="
        )
    return listed


def _checked_sinks(sinks: Iterable[Sink]) -> tuple[Sink, ...]:
    if not isinstance(sinks, Iterable) or isinstance(sinks, str | Mapping):
        raise EmoGuardError(f"sinks: wanted a list of sinks, got {describe(sinks)}: write [sink]")
    listed = tuple(sinks)
    for index, sink in enumerate(listed):
        if isinstance(sink, type) or not callable(getattr(sink, "report", None)):
            kind = f"the class {sink.__name__}" if isinstance(sink, type) else describe(sink)
            raise EmoGuardError(
                f"sinks.{index}: wanted an object with a method report, got {kind}: sinks that a "
                "policy names are opened by open_guard"
            )
    return listed


def _check_called(**functions: Any) -> None:
    for name, function in functions.items():
        if not (function is None or callable(function)):
            raise EmoGuardError(f"{name}: wanted a function, got {describe(function)}")


def _returning_nothing(call: Callable[[Alert], None]) -> Callable[[Alert], tuple[Alert, ...]]:
    def take(alert: Alert) -> tuple[Alert, ...]:
        call(alert)
        return ()

    return take


def _levels(thresholds: Sequence[Threshold | None]) -> NDArray[np.float64]:
    """Return the levels to watch, (labels,): infinite, so never crossed, without a threshold."""
    return np.array([math.inf if each is None else each.level for each in thresholds])


def _phase_counts(phases: NDArray[np.uint8]) -> dict[Phase, int]:
    counts = np.bincount(phases, minlength=len(PHASES))
    return {phase: int(count) for phase, count in zip(PHASES, counts, strict=True)}


def _detail(reading: Reading) -> str | None:
    steering = reading.steered.fault if reading.steered else None
    return reading.fault or reading.skipped or reading.halted or steering


def _broken(reading: Reading) -> list[str]:
    """Return the parts of EmoGuard that failed during a response."""
    steering = reading.steered.fault if reading.steered else None
    parts = {"reading": reading.fault, "steering": steering}
    return [part for part, fault in parts.items() if fault]


def _receipt(steered: Steered | None) -> Receipt | None:
    if steered is None:
        return None
    steering, fresh = steered.steering, np.isfinite(steered.dose)
    doses = steered.dose[fresh]
    return Receipt(
        plan=steering.plan.as_dict(),
        asked=steering.asked.as_dict() if steering.asked else None,
        layers=steering.layers,
        bound=steering.bound,
        dose_median=float(np.median(doses)) if len(doses) else None,
        dose_max=float(doses.max()) if len(doses) else None,
        applied=int((doses > 0).sum()),
        clipped=int((steered.clipped & fresh).sum()),
        faulted=int((steered.faulted | ~fresh).sum()),
    )


def _token_scores(reading: Reading) -> tuple[TokenScore, ...]:
    sinks = reading.attention_sinks
    rows = np.where(np.isfinite(reading.rows), reading.rows, np.nan)
    rows[:sinks][~np.isnan(rows[:sinks])] = 0
    return tuple(
        TokenScore(
            int(token),
            PHASES[phase],
            tuple(None if math.isnan(value) else value for value in row),
            place < sinks,
        )
        for place, (token, phase, row) in enumerate(
            zip(reading.token_ids, reading.phases, rows.tolist(), strict=True)
        )
    )
