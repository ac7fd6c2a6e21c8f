"""The seams: what a runtime plug-in, a watch and a sink must offer. Nothing here does anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emoguard.guard import Guard
    from emoguard.identity import ModelIdentity
    from emoguard.plan import Plan
    from emoguard.records import Alert, Reading, Report
    from emoguard.sinks import Site


@runtime_checkable
class Sink(Protocol):
    """Takes finished reports: a monitor returns alerts, an exporter returns none."""

    def report(self, report: Report) -> Sequence[Alert]:
        """Take one finished report. May raise or block: generation never notices."""
        ...


@runtime_checkable
class Rate(Protocol):
    """What an exporter asks a monitor of crossing rates that it is joined to."""

    rates: Mapping[str, float]
    """Certified crossings per 1,000 window positions by label."""

    def alarms(self) -> Mapping[str, int]:
        """Return how many alarms were raised since the process started, by label."""
        ...


@runtime_checkable
class Drift(Protocol):
    """What an exporter asks a drift monitor that it is joined to, from its own thread.

    Both mappings are by label; one that is missing counts as 0.
    """

    baseline_created: float | None
    """When the traffic baseline was frozen, seconds since 1970; None while it is learning."""

    def evidence(self) -> Mapping[str, float]:
        """Return the evidence for a change, as a share of what raises an alarm: 1 alarms.

        Linear, so that the evidence of replicas may be averaged.
        """
        ...

    def alarms(self) -> Mapping[str, int]:
        """Return how many alarms were raised since the process started."""
        ...


@runtime_checkable
class Lines(Protocol):
    """What an exporter asks an audit log that it is joined to."""

    lines: int
    """Lines in the log, those of earlier processes included."""


@runtime_checkable
class Notices(Protocol):
    """What an exporter asks the guard's notices that it is shown, from its own thread."""

    def overdue(self) -> int:
        """Return how many notices are late by more than one response, or stuck on their way."""
        ...


@runtime_checkable
class ShowsNotices(Protocol):
    """A sink that wants to be shown the notices of the guard it reports for."""

    def show_notices(self, notices: Notices) -> None:
        """Take them; called once, when the guard is made."""
        ...


class SinkFactory(Protocol):
    """What the groups `emoguard.monitors` and `emoguard.exporters` name: the class of a sink.

    The class may have a class method `check_policy`, which `emoguard check` calls with the same
    options: it raises EmoGuardError where `from_policy` would on this machine, and leaves nothing
    behind. The sink may have a method `close`, called when nobody reports to it any more, and an
    exporter a method `join`, called with all sinks of the policy once they are open, so that it can
    show what they know.
    """

    def from_policy(self, site: Site, **options: Any) -> Sink:
        """Open the sink with the options a policy gives it.

        Written out, `options` are keyword-only parameters with annotations and defaults: they are
        checked, and described to the operator, by these.
        """
        ...


@runtime_checkable
class Residuals(Protocol):
    """The offline door into a runtime: residuals of a given text, outside any generation.

    It runs through the same point of the model as the live hook, so that what a probe was fitted on
    is what it reads.
    """

    identity: ModelIdentity
    """Which file this is."""

    @property
    def backend(self) -> str:
        """Return the runtime and the path into it, as reports name them."""
        ...

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids; `special` adds BOS as the model's own tokenizer would."""
        ...

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the outputs of decoder blocks `layers`, float32 (layers, tokens, hidden)."""
        ...


Pool = Callable[[Sequence[Sequence[int]], Sequence[int]], "NDArray[np.float32]"]
"""Takes a batch of texts as token ids, and for each the position its mean starts at; returns the
mean residuals, float32 (texts, layers, hidden), as each text alone would give."""


@runtime_checkable
class Pooling(Protocol):
    """What a door may offer beside `Residuals`: mean residuals of many texts, run together."""

    def pooling(
        self, layers: Sequence[int], *, texts: int, tokens: int
    ) -> AbstractContextManager[Pool]:
        """Open a pass over batches of at most `texts` texts and `tokens` tokens.

        Layer -1 is what block 0 receives: the embeddings.
        """
        ...


@runtime_checkable
class Watch(Protocol):
    """The handle that `attach` returns. Leaving its `with` block detaches."""

    guard: Guard
    identity: ModelIdentity
    """Which file is watched."""
    reports: deque[Report]
    """The last reports, newest last, at most `Policy.keep_reports`."""

    def live(self) -> Reading | None:
        """Return what the newest open response has read so far, None when none is open."""
        ...

    def steering(self, plan: Plan | Mapping[str, Any]) -> AbstractContextManager[None]:
        """Steer every generation that starts in this `with` block by `plan`.

        `plan` is a Plan, or a mapping with its keys. It is laid over the policy's plan, and a
        request's own is laid over it.

        Raises:
            EmoGuardError: a plan that this probe, model or policy does not allow.

        """
        ...

    def check_plan(self, plan: Plan | Mapping[str, Any] | None) -> None:
        """Refuse what a generation by this plan that starts now would refuse, too.

        Raises:
            EmoGuardError: a plan that this probe, model, policy or read path does not allow.

        """
        ...

    def abandon(self, request_id: str) -> None:
        """Say that nobody waits for the rest of a request's response, from any thread.

        What can be closed is closed as cancelled; the notice of what comes later counts as lost.
        """
        ...

    def detach(self) -> None:
        """Take every hook away again; the model then behaves bit-identically. Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Plugin(Protocol):
    """What the entry-point group `emoguard.plugins` names: a module that joins one runtime."""

    def open_residuals(self, model: Any, **options: Any) -> Residuals:
        """Return the offline door into `model`."""
        ...

    def attach(self, model: Any, guard: Guard, **options: Any) -> Watch:
        """Join `guard` to `model`; atomic: on an error nothing is left behind."""
        ...
