"""The watch that watches nothing, for `EMOGUARD_DISABLE=1`."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

from emoguard.records import Report
from emoguard.runtime.call import called_through
from emoguard.runtime.patch import attribute
from emoguard.steering.plan import Plan

log = logging.getLogger("emoguard")

CALLS = ("generate", "generate_batch", "create_completion", "create_chat_completion")
"""Calls that take a request as `emoguard=`: a runtime has one or all of them."""

MAKERS = {"init_continuous_batching": ("add_request", "add_requests")}
"""Calls that return an object whose own calls take requests, and those calls."""


class DisabledWatch:
    """Has the methods of `emoguard.watch.Watch`; there is no guard, and no report is made.

    It only takes the keyword `emoguard` off the calls that carry it, which would break without.
    """

    guard = None
    identity = None

    def __init__(self, model: Any) -> None:
        log.warning("EMOGUARD_DISABLE=1: EmoGuard is not attached")
        self.reports: deque[Report] = deque(maxlen=1)
        self._undo = ExitStack()
        for name in CALLS:
            self._wrap(model, name, _without_keyword)
        for name in MAKERS:
            self._wrap(model, name, _making)
        if callable(model) and hasattr(model, "create_completion"):  # a Llama is called itself, too
            self._undo.enter_context(called_through(model, _without_keyword))

    def _wrap(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        """Have a method of `owner`, if it has one of this name, called through `call`."""
        original = getattr(owner, name, None)
        if original is not None and name not in vars(owner):
            plain = functools.wraps(original)(functools.partial(call, original))
            self._undo.enter_context(attribute(owner, name, plain))

    def live(self, request_id: str | None = None) -> None:
        """Return None: nothing is read."""

    @contextmanager
    def recording(self) -> Iterator[list[Report]]:
        """Yield a list that stays empty."""
        yield []

    def steering(self, plan: Plan | Mapping[str, Any]) -> AbstractContextManager[None]:
        """Return a block in which nothing is steered."""
        return nullcontext()

    def check_plan(self, plan: Plan | Mapping[str, Any] | None) -> None:
        """Do nothing: nothing is steered."""

    def recheck(self) -> None:
        """Return None: nothing is read."""

    def abandon(self, request_id: str) -> None:
        """Do nothing: nothing is reported."""

    def detach(self) -> None:
        """Leave the model as it was. Idempotent."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


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
