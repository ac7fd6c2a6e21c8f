"""Keeps the open sessions of one model, from the first token of a response to its report."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from emoguard import summary
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe.identity import ModelIdentity
from emoguard.records import Finish, Report, Request
from emoguard.runtime.interrupts import is_interrupt
from emoguard.runtime.joint import Joint, Part
from emoguard.runtime.live import LiveAlarm, alert_late
from emoguard.runtime.pieces import split
from emoguard.runtime.reading import Reading
from emoguard.runtime.session import Session
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard.steering.plan import Plan
from emoguard.steering.standing import Standing

log = logging.getLogger("emoguard")

MOST_SITES = 16
"""Identities of one model object (other adapters, another dtype) that are remembered."""


class OpenSessions:
    """Opens, follows and reports the sessions of the model behind `joint`.

    Runtimes call it, see `emoguard.runtime.joint.Sessions`. `site` is the guard on the model file
    as it was at attach, in whose scale the joint reads. `standing` are the plans in force.
    `reports` are the last ones, newest last; `recorders` get every one, or those of one call.
    """

    def __init__(self, guard: Guard, joint: Joint) -> None:
        identity = joint.identity()
        guard.probe.check_fits(identity)
        guard.refresh()
        self.guard = guard
        self.joint = joint
        self.site = guard.site(identity, joint.backend)
        self.standing = Standing()
        self.reports: deque[Report] = deque(maxlen=guard.policy.keep_reports)
        self.recorders: dict[int, tuple[str | None, list[Report]]] = {}
        self._sites = {identity: self.site}
        self._open: dict[int, Session] = {}
        self._logged: set[str] = set()

    def now(self) -> list[Session]:
        """Return the open sessions, newest last."""
        return list(self._open.values())

    def steering(self, plan: Plan | None) -> Steering | None:
        """Return the steering of a generation by this plan if it started now.

        Raises:
            EmoGuardError: a plan that this probe, model, policy or read path does not allow.

        """
        return self._steering(plan, self._site(self.joint.identity()))

    def open(
        self,
        request: Request,
        prompt_ids: Sequence[int] = (),
        identity: ModelIdentity | None = None,
    ) -> Session:
        """Start the session of one sequence: lay its plan, start its alarm.

        Raises:
            EmoGuardError: a plan that this probe, model, policy or read path does not allow.

        """
        site = self._site(identity or self.joint.identity())
        session = Session(
            request,
            site,
            self.joint.backend,
            prompt_ids,
            self.joint.thinking,
            steering=self._steering(request.plan, site),
            decode=self.joint.decode,
        )
        if site is self.site:  # else the rows are in another scale than the thresholds
            session.alarm = LiveAlarm.make(
                site,
                self.guard.outbox.alert,
                lambda: session.request.id,
                session.prompt,
                self.joint.decode,
            )
        self._open[id(session)] = session
        return session

    def commit(
        self,
        session: Session,
        token: int,
        row: NDArray[np.float32],
        move: tuple[float, float, float] | None = None,
    ) -> str | None:
        """Keep the row that a token was chosen from; return why to stop, or None."""
        session.commit(token, row, move)
        return self.follow(session, token, row)

    def follow(self, session: Session, token: int, row: NDArray[np.float32]) -> str | None:
        """Show a token to the live alarm; return why to stop, or None."""
        if session.alarm is not None and session.fault is None:
            with self.guarded(session):
                session.halted = session.alarm.update(token, row) or session.halted
        return session.halted

    def skip(self, session: Session, mode: str) -> None:
        """Run a generation mode without one reading per token unread, or refuse it.

        Raises:
            EmoGuardError: the mode, if the policy refuses it or the response is to be steered.

        """
        session.skipped = f"{mode} has no one reading per token"
        if session.steering is not None:
            self.drop(session)
            raise EmoGuardError(
                f"{session.skipped} and cannot be steered: generate without it, or without a plan"
            )
        if self.guard.policy.on_unsupported == "refuse":
            self.drop(session)
            raise EmoGuardError(
                f"{session.skipped}: generate without it, or set on_unsupported: skip in the policy"
            )

    def fail(
        self,
        session: Session | None,
        error: BaseException,
        part: Part = "reading",
    ) -> None:
        """Record a failure during a response: log it once, and obey `on_fault`.

        Raises:
            Exception: `error`, if it interrupts the thread: nothing of EmoGuard's own broke.

        """
        if is_interrupt(error):
            raise error
        if part == "reading":
            if session is not None:
                session.fail(error)
            self._log_once("reading failed, the response goes on", error)
            return
        if session is not None:
            session.fail_steering(error)
            if self.guard.policy.steering.on_fault == "stop":
                why = f"steering broke ({session.steering_fault}): the policy says stop"
                session.halted = session.halted or why
        self._log_once("steering failed, what follows is not steered", error)

    @contextmanager
    def guarded(self, session: Session | None, part: Part = "reading") -> Iterator[None]:
        """Keep errors in this block from the generation: `fail` is called with them."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self.fail(session, error, part)

    @contextmanager
    def closing(self, session: Session, finish: Finish = "length") -> Iterator[None]:
        """Close a session after this block, as cancelled if the generation in it broke off."""
        try:
            yield
        except BaseException:
            self.close(session, "cancelled")
            raise
        self.close(session, "halted" if session.halted else finish)

    def close(self, session: Session, finish: Finish) -> Report | None:
        """Report a session; None if it was closed before. Never raises."""
        with session.closing:
            if session.closed:
                return None
            self.drop(session)
            for finish_off in (self.joint.settle, self.joint.release):
                with self.guarded(session):
                    finish_off(session)
            report = self._report(session, finish)
        if report is not None:
            self.reports.append(report)
            for call, reports in list(self.recorders.values()):
                if call in (None, report.call):
                    reports.append(report)
        self.guard.refresh()
        return report

    def drop(self, session: Session) -> None:
        """Forget a session without a report: its generation was refused."""
        session.closed = True
        self._open.pop(id(session), None)

    def read(self, session: Session, finish: Finish = "unknown") -> Reading:
        """Return the reading of a session so far, in the scale of its own file."""
        with self.guarded(session):
            self.joint.settle(session)
        return self._scaled(session, finish)

    def _site(self, identity: ModelIdentity) -> Site:
        """Return the guard on the model's present file."""
        site = self._sites.get(identity)
        if site is None:
            site = self.guard.site(identity, self.joint.backend)
            if len(self._sites) < MOST_SITES:
                self._sites[identity] = site
        return site

    def _steering(self, plan: Plan | None, site: Site) -> Steering | None:
        """Return the steering of a request's plan here; raise if it cannot be done."""
        self.guard.refresh()
        standing = self.standing.plan()
        steering = site.steering(standing if plan is None else plan.over(standing))
        if steering is not None:
            self.joint.refuse(steering)
        return steering

    def _report(self, session: Session, finish: Finish) -> Report | None:
        """Return the report of a session; its status is `error` if the rows defy a summary."""
        for _ in range(2):
            try:
                reading = _with_pieces(self._scaled(session, finish), session)
                report = summary.report(reading, session.request, session.site)
                alert_late(session.site, self.guard.outbox.alert, report, session.text)
                return self.guard.outbox.put(report, session.request, session.text)
            except Exception as error:  # noqa: BLE001  (the response must not notice)
                self.fail(session, error)
                session.rows = []
        return None

    def _scaled(self, session: Session, finish: Finish) -> Reading:
        reading = session.reading(finish)
        if session.site is self.site:
            return reading
        rows = session.site.rescaled(reading.rows, self.site)
        return dataclasses.replace(reading, rows=rows)

    def _log_once(self, message: str, error: BaseException) -> None:
        if message not in self._logged:
            self._logged.add(message)
            log.error("%s (logged once): %s: %s", message, type(error).__name__, error)


def _with_pieces(reading: Reading, session: Session) -> Reading:
    """Return a reading with the text of its tokens, if its request asked for them."""
    if session.request.scores != "text" or session.decode is None or session.fault is not None:
        return reading
    return dataclasses.replace(reading, pieces=split(session.decode, reading.token_ids.tolist()))
