"""Defines the watch: the handle on a model that is read, one class for every runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, cast

from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe.identity import ModelIdentity
from emoguard.records import Report, check_name
from emoguard.runtime.joint import Joint
from emoguard.runtime.patch import attribute
from emoguard.runtime.reading import Reading
from emoguard.runtime.sessions import OpenSessions
from emoguard.runtime.watched import Watched
from emoguard.steering.plan import Plan

MARK = "_emoguard"
"""Instance attribute of a model that is watched: its watch."""


class Watch:
    """Reads every generation of a model until detached; the handle that `attach` returns.

    `guard` decides what is read and where reports go, `site` is that guard on the model file as it
    was at attach. `reports` are the last reports, newest last, at most `Policy.keep_reports`.
    `enabled` is False if the environment switched EmoGuard off.

    Raises:
        EmoGuardError: the model is watched already, the probe does not fit it, its hooks do not sit
            where the probe was fitted, or the policy's plan cannot be applied. The model is then
            unchanged.

    """

    enabled = True

    def __init__(self, guard: Guard, joint: Joint) -> None:
        if MARK in vars(joint.model):
            raise EmoGuardError("this model is watched already: detach() the other watch first")
        self.guard = guard
        self.joint = joint
        self.sessions = OpenSessions(guard, joint)
        self.site = self.sessions.site
        self.reports = self.sessions.reports
        self.check_plan(None)  # a standing plan that cannot be applied is refused here
        self._undo = self._join()

    @property
    def identity(self) -> ModelIdentity:
        """Return the identity of the model at attach."""
        return self.site.identity

    @property
    def model(self) -> Watched:
        """Return the model itself; type checkers know here that its calls take `emoguard=`."""
        return cast("Watched", self.joint.model)

    @property
    def backend(self) -> str:
        """Return the runtime and the path that is read on."""
        return self.joint.backend

    def live(self, request_id: str | None = None) -> Reading | None:
        """Return the reading so far of the newest open response, None if none is open.

        With a `request_id`, only responses to that request count.
        """
        sessions = [s for s in self.sessions.now() if request_id in (None, s.request.call)]
        return self.sessions.read(sessions[-1]) if sessions else None

    @contextmanager
    def recording(self, request_id: str | None = None) -> Iterator[list[Report]]:
        """Collect the reports of all responses that end in this block, in any thread.

        With a `request_id`, only responses to that request count.
        """
        reports: list[Report] = []
        recorders = self.sessions.recorders
        recorders[id(reports)] = request_id, reports
        try:
            yield reports
        finally:
            del recorders[id(reports)]

    def steering(self, plan: Plan | Mapping[str, Any]) -> AbstractContextManager[None]:
        """Steer every generation that starts in this block by `plan`.

        `plan` is a Plan, or a mapping with its keys. It is laid over the policy's plan, and a
        request's own is laid over it. Blocks may overlap, also those of other threads: each one's
        plan holds until that block ends.

        Raises:
            EmoGuardError: a plan that this probe, model, policy or read path does not allow.

        """
        return self.sessions.standing.during(plan, self.check_plan)

    def check_plan(self, plan: Plan | Mapping[str, Any] | None) -> None:
        """Raise if a generation by this plan would be refused if it started now.

        Raises:
            EmoGuardError: a plan that this probe, model, policy or read path does not allow.

        """
        self.sessions.steering(None if plan is None else Plan.parse(plan))

    def recheck(self) -> ModelIdentity:
        """Read the content of all weights now; return the model's identity.

        At the start of a response only marks are compared, and some writes leave none (in torch
        those through `.data`): call this after such a write. Responses that begin from now on are
        reported as this file's.
        """
        return self.joint.identity(anew=True)

    def abandon(self, request_id: str) -> None:
        """Declare that the client of a request is gone. Thread-safe.

        Its open sessions are closed as cancelled; notices of later reports count as lost.
        """
        request_id = check_name("request_id", request_id)
        for session in self.sessions.now():
            if session.request.call == request_id:
                self.sessions.close(session, "cancelled")
        self.guard.outbox.abandon(request_id)

    def detach(self) -> None:
        """Remove every hook: the model is then bit-identical to one never watched. Idempotent.

        Open sessions are closed as cancelled.
        """
        try:
            self._undo.close()
        finally:
            for session in self.sessions.now():
                self.sessions.close(session, "cancelled")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _join(self) -> ExitStack:
        """Hook the model, check the hooks by the witness, wrap it; return the undo stack."""
        probe = self.guard.probe
        with ExitStack() as undo:
            undo.enter_context(attribute(self.joint.model, MARK, self))
            door = undo.enter_context(self.joint.hooked(self.site))
            probe.witness.check(door, probe.layers)
            undo.callback(self.guard.watch(self.site, self.joint.refuse))
            undo.enter_context(self.joint.wrapped(self.sessions))
            return undo.pop_all()
