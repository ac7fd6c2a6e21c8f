"""Provides a watch and a guard that do nothing, for `EMOGUARD_DISABLE=1`."""

from __future__ import annotations

import functools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast

from emoguard.guard import Guard
from emoguard.notices.outbox import Outbox
from emoguard.policy.policy import Policy
from emoguard.policy.reload import FixedPolicy
from emoguard.probe.identity import ModelIdentity
from emoguard.records import Report
from emoguard.runtime.call import called_through
from emoguard.runtime.patch import attribute
from emoguard.runtime.watch import Watch
from emoguard.runtime.watched import Watched
from emoguard.steering.plan import Plan

log = logging.getLogger("emoguard")

SWITCH = "EMOGUARD_DISABLE"
"""The environment variable that switches EmoGuard off if it is 1."""

NOT_WATCHED = ModelIdentity("not watched", "", 0, 0, "", "")
"""The identity of a model that was not inspected."""

CALLS = ("generate", "generate_batch", "chat", "create_completion", "create_chat_completion")
"""Calls that take a request as `emoguard=`: a runtime has one or all of them."""

MAKERS = {"init_continuous_batching": ("add_request", "add_requests")}
"""Calls that return an object whose own calls take requests, and those calls."""


def is_disabled() -> bool:
    """Return whether the environment switches EmoGuard off."""
    return os.environ.get(SWITCH) == "1"


class DisabledGuard(Guard):
    """A guard that reads no label and has neither probe nor sinks; its policy is the default one.

    Every method that a server calls works and does nothing. There is no `probe`: reading it raises
    AttributeError.
    """

    def __init__(self) -> None:
        self.source = FixedPolicy(Policy())
        self.labels = self.monitored = self.unopened = ()
        self.calibrations = ()
        self.sinks = ()
        self.outbox = Outbox(lambda: self.policy)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{SWITCH}=1: nothing is read, so this guard has no {name}")

    def refresh(self) -> None:
        """Do nothing: there is no policy file to follow."""

    def check(self, policy: Policy) -> None:
        """Do nothing: no policy is applied."""


class DisabledWatch(Watch):
    """A watch that reads nothing and makes no report.

    It only takes the keyword `emoguard` off the calls that carry it, which would fail otherwise.
    """

    enabled = False

    def __init__(self, model: Any) -> None:
        log.warning("%s=1: EmoGuard is not attached", SWITCH)
        self.guard = DisabledGuard()
        self.reports: deque[Report] = deque(maxlen=1)
        self._model = model
        self._undo = ExitStack()
        for name in CALLS:
            self._wrap(model, name, _without_keyword)
        for name in MAKERS:
            self._wrap(model, name, _making)
        if callable(model) and hasattr(model, "create_completion"):  # it is called itself, too
            self._undo.enter_context(called_through(model, _without_keyword))

    @property
    def model(self) -> Watched:
        """Return the model itself."""
        return cast("Watched", self._model)

    @property
    def identity(self) -> ModelIdentity:
        """Return an empty identity: the model was not inspected."""
        return NOT_WATCHED

    @property
    def backend(self) -> str:
        """Return that nothing is read."""
        return "disabled"

    def _wrap(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        """Route the method `name` of `owner`, if there is one, through `call`."""
        original = getattr(owner, name, None)
        if original is not None and name not in vars(owner):
            plain = functools.wraps(original)(functools.partial(call, original))
            self._undo.enter_context(attribute(owner, name, plain))

    def live(self, request_id: str | None = None) -> None:
        """Return None: nothing is read."""

    @contextmanager
    def recording(self, request_id: str | None = None) -> Iterator[list[Report]]:
        """Yield a list that stays empty."""
        yield []

    def steering(self, plan: Plan | Mapping[str, Any]) -> AbstractContextManager[None]:
        """Return a block in which nothing is steered."""
        return nullcontext()

    def check_plan(self, plan: Plan | Mapping[str, Any] | None) -> None:
        """Do nothing: nothing is steered."""

    def recheck(self) -> ModelIdentity:
        """Return an empty identity: the model is not inspected."""
        return NOT_WATCHED

    def abandon(self, request_id: str) -> None:
        """Do nothing: nothing is reported."""

    def detach(self) -> None:
        """Leave the model as it was. Idempotent."""
        self._undo.close()


def _without_keyword(
    original: Callable[..., Any],
    *args: Any,
    emoguard: Any = None,  # noqa: ARG001
    **kwargs: Any,
) -> Any:
    return original(*args, **kwargs)


def _making(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    maker = original(*args, **kwargs)
    for name in MAKERS[original.__name__]:
        if name not in vars(maker):
            vars(maker)[name] = functools.partial(_without_keyword, getattr(maker, name))
    return maker
