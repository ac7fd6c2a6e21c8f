"""Defines the seam to sinks: the methods of one, and the states that sinks may share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from emoguard.records import Alert, Report
from emoguard.site import Site


@runtime_checkable
class Sink(Protocol):
    """Takes finished reports: a monitor returns alerts, an exporter returns none."""

    def report(self, report: Report) -> Sequence[Alert]:
        """Take one finished report. May raise or block: generation never notices."""
        ...


@runtime_checkable
class Rate(Protocol):
    """The state of a monitor of crossing rates, for an exporter joined to it."""

    rates: Mapping[str, float]
    """Certified crossings per 1,000 window positions by label."""

    def evidence(self) -> Mapping[str, float]:
        """Return the evidence for too high a rate; 1 raises an alarm."""
        ...

    def alarms(self) -> Mapping[str, int]:
        """Return how many alarms were raised since the process started, by label."""
        ...


@runtime_checkable
class Drift(Protocol):
    """The state of a drift monitor, for an exporter joined to it; read from its thread.

    Both mappings are by label; one that is missing counts as 0.
    """

    baseline_created: float | None
    """When the traffic baseline was frozen, seconds since 1970; None while it is learning."""

    def evidence(self) -> Mapping[str, float]:
        """Return the evidence for a change; 1 raises an alarm.

        Linear, so that the evidence of replicas may be averaged.
        """
        ...

    def alarms(self) -> Mapping[str, int]:
        """Return how many alarms were raised since the process started."""
        ...


@runtime_checkable
class Lines(Protocol):
    """The state of an audit log, for an exporter joined to it."""

    lines: int
    """Lines in the log, those of earlier processes included."""


@runtime_checkable
class Notices(Protocol):
    """The state of the guard's notices, for an exporter; read from its thread."""

    def overdue(self) -> int:
        """Return how many notices are late by more than one response, or stuck on their way."""
        ...


@runtime_checkable
class ShowsNotices(Protocol):
    """A sink that shows the state of its guard's notices."""

    def show_notices(self, notices: Notices) -> None:
        """Take them; called once, when the guard is made."""
        ...


@runtime_checkable
class CountsFaults(Protocol):
    """A sink that can fail without losing the report at hand, in its state file for instance."""

    def faults(self) -> int:
        """Return the number of such failures since the last call, made on the generation path."""
        ...


class SinkFactory(Protocol):
    """The class of a sink, named by the groups `emoguard.monitors` and `emoguard.exporters`.

    The class may have a class method `check_policy`, which `emoguard check` calls with the same
    options: it raises EmoGuardError where `from_policy` would on this machine, and leaves nothing
    behind. The sink may have a method `close`, called after its last report, and an exporter a
    method `join`, called with all sinks of the policy once they are open, so that it can show their
    state.
    """

    def from_policy(self, site: Site, **options: Any) -> Sink:
        """Open the sink with the options a policy gives it.

        Written out, `options` are keyword-only parameters with annotations and defaults: they are
        checked, and described to the operator, by these.
        """
        ...
