"""Supplies the subject of a page: a watched model in this process, or an audit log."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from emoguard.runtime.watch import Watch
from emoguard_page import about, operators
from emoguard_page.traffic import Traffic


class Shown(Protocol):
    """The source of the operator's view; `traffic` is None if no reports are kept."""

    traffic: Traffic | None

    async def refresh(self) -> None:
        """Look for news, in a source that does not push them."""
        ...

    def about(self) -> dict[str, Any]:
        """Return labels, limits and permissions, as plain JSON data."""
        ...

    def about_changes(self) -> object:
        """Return an object that changes, by identity, whenever `about` does."""
        ...

    def alerts(self) -> list[dict[str, Any]]:
        """Return the last alerts, newest last."""
        ...

    def state(self) -> dict[str, Any]:
        """Return counts, evidence and faults."""
        ...

    def open_responses(self) -> list[dict[str, Any]]:
        """Return the responses that are being generated."""
        ...


class Watched:
    """A watched model; `traffic` is the sink `page` of its guard."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._boot = uuid.uuid4().hex
        self.traffic = next((sink for sink in watch.guard.sinks if isinstance(sink, Traffic)), None)

    async def refresh(self) -> None:
        """Do nothing: reports come by themselves."""

    def about(self) -> dict[str, Any]:
        """Return labels, limits and permissions; `boot` names this process."""
        keeps = None if self.traffic is None else self.traffic.keeps
        return about.of_watch(self._watch) | {"boot": self._boot, "keeps": keeps, "chat": True}

    def about_changes(self) -> object:
        """Return the policy in force."""
        return self._watch.guard.policy

    def alerts(self) -> list[dict[str, Any]]:
        """Return the guard's alerts, with the time of their report where it is kept."""
        if self.traffic is None:
            return []
        times = {report.id: report.created for _, report in self.traffic.since(0)}
        alerts = list(self._watch.guard.alerts)
        return [operators.alert(each, times.get(each.report_id)) for each in alerts]

    def state(self) -> dict[str, Any]:
        """Return counts, the monitors' evidence and faults."""
        assert self.traffic is not None
        file = self._watch.guard.policy_file
        return operators.state(self.traffic, None if file is None else file.error)

    def open_responses(self) -> list[dict[str, Any]]:
        """Return the responses that are being generated."""
        if not self._watch.enabled:
            return []
        curves = self._watch.guard.policy.page.curves
        return operators.open_responses(self._watch, curves=curves)
