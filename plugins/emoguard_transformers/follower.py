"""Follows one manager of continuous batching: a session for each of its requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.records import Finish, Request
from emoguard.runtime.joint import Sessions
from emoguard.runtime.patch import attribute
from emoguard_transformers.batchrequests import BatchRequests, take_batch_requests
from emoguard_transformers.passes import Passes
from emoguard_transformers.prefixes import keep_apart
from emoguard_transformers.requests import numbered
from emoguard_transformers.step import Slot

Plain = Callable[..., Any]

MARK = "_emoguard"
"""Instance attribute of a manager that is followed: its follower."""


class Follower:
    """Follows the requests of `manager` from `follow` to `detach`.

    `mode` is the reason why this manager's passes cannot be read, None if they can. `passes` makes
    the follower of a processor's passes. `pending` returns the requests of this thread's
    `generate_batch`, which calls `add_requests` next.
    """

    def __init__(
        self,
        manager: Any,
        mode: str | None,
        sessions: Sessions,
        passes: Callable[[Any, Mapping[str, Slot]], Passes],
        pending: Callable[[], BatchRequests | None],
    ) -> None:
        self._manager = manager
        self._mode = mode
        self._sessions = sessions
        self._passes = passes
        self._pending = pending
        self._slots: dict[str, Slot] = {}
        self._undo = ExitStack()
        self._processor = ExitStack()
        self._prefixes = ExitStack()
        self._attached = True

    def follow(self) -> None:
        """Wrap the manager's methods."""
        manager, router = self._manager, self._manager.output_router
        self._undo.enter_context(attribute(manager, MARK, self))
        for owner, name, wrap in (
            (manager, "add_request", self._adding),
            (manager, "add_requests", self._adding_all),
            (manager, "cancel_request", self._cancelling),
            (manager, "_create_batch_processor", self._creating),
            (manager, "_run_generation_loop", self._looping),
            (router, "deliver", self._delivering),
            (router, "deliver_batch", self._delivering_batch),
        ):
            self._undo.enter_context(attribute(owner, name, wrap(getattr(owner, name))))
        if manager.batch_processor is not None:  # a manager that is kept for the next session
            self._wrap(manager.batch_processor)

    def detach(self) -> None:
        """Remove every wrapper; no other request ever reuses positions computed steered.

        While a steered request is running, its prefixes stay apart for the life of the manager.
        """
        self._attached = False
        self._undo.close()
        self._processor.close()
        if not any(slot.session.steering is not None for slot in list(self._slots.values())):
            self._prefixes.close()

    def _adding(self, plain: Plain) -> Plain:
        signature = inspect.signature(plain)

        def add_request(*args: Any, **kwargs: Any) -> Any:
            request = take_batch_requests(kwargs)
            if not self._attached or not self._manager.is_tp_driver:
                return plain(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            prompt = [int(token) for token in bound.arguments["input_ids"]]
            name = bound.arguments.get("request_id")
            name = bound.arguments["request_id"] = self._next_id() if name is None else name
            if isinstance(request, BatchRequests):
                with request.remembering():
                    return self._added(plain, bound, name, prompt, request.take(prompt))
            if request is not None and not isinstance(request, Request):
                raise EmoGuardError("add_request takes one prompt: emoguard= must be one Request")
            return self._added(plain, bound, name, prompt, request)

        return add_request

    def _adding_all(self, plain: Plain) -> Plain:
        signature = inspect.signature(plain)

        def add_requests(*args: Any, **kwargs: Any) -> Any:
            requests = take_batch_requests(kwargs)
            if not self._attached or not self._manager.is_tp_driver:
                return plain(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            group = self._pending()
            if group is None:
                group = BatchRequests.of(bound.arguments["inputs"], requests)
                group.check(self._sessions)
            return plain(*args, **kwargs, emoguard=group)

        return add_requests

    def _added(
        self, plain: Plain, bound: Any, name: str, prompt: Sequence[int], request: Request | None
    ) -> Any:
        """Add a request with its sessions; forget them if the manager takes no request."""
        slots = self._open(name, prompt, request)
        added = None
        try:
            added = plain(*bound.args, **bound.kwargs)
        finally:
            if added is None:
                for child in slots:
                    self._sessions.drop(self._slots.pop(child).session)
        return added

    def _open(self, name: str, prompt: Sequence[int], request: Request | None) -> list[str]:
        """Open a session for a request and each sequence to be split off it; return their names.

        Raises:
            EmoGuardError: a plan or a mode that is refused, a name that is in use.

        """
        more = self._manager.num_return_sequences - 1
        names = [name, *(f"{name}__child#{child}" for child in range(more))]
        if request is not None:
            requests = numbered(request, len(names))
        else:
            requests = [Request(id=each, call=name) for each in names]
        if any(each in self._slots for each in names):
            raise EmoGuardError(f"a request {name!r} is under way: give each request its own id")
        opened: dict[str, Slot] = {}
        try:
            for each, own in zip(names, requests, strict=True):
                identity = opened[name].session.site.identity if opened else None
                session = self._sessions.open(own, prompt, identity)
                session.held = opened[each] = Slot(session)
                if self._mode is not None:
                    opened[each].finish = "unknown"
                    self._sessions.skip(session, self._mode)
        except BaseException:
            for slot in opened.values():
                self._sessions.drop(slot.session)
            raise
        opened[name].children = tuple(names[1:])
        self._slots |= opened
        return names

    def _next_id(self) -> str:
        """Return the id that the manager would give its next request."""
        manager = self._manager
        with manager._request_lock:  # noqa: SLF001
            count = manager._request_counter  # noqa: SLF001
            manager._request_counter += 1  # noqa: SLF001
        return f"req_{count}"

    def _cancelling(self, plain: Plain) -> Plain:
        def cancel_request(request_id: str, *args: Any, **kwargs: Any) -> Any:
            slot = self._slots.get(request_id)
            done = plain(request_id, *args, **kwargs)
            if self._attached and slot is not None:
                # Its slot stays until the loop has released it.
                self._sessions.close(slot.session, "cancelled")
            return done

        return cancel_request

    def _creating(self, plain: Plain) -> Plain:
        def create_batch_processor(*args: Any, **kwargs: Any) -> Any:
            processor = plain(*args, **kwargs)
            if self._attached:
                self._wrap(processor)
            return processor

        return create_batch_processor

    def _wrap(self, processor: Any) -> None:
        """Follow the passes of a processor, unless they are followed or cannot be read."""
        self._processor.close()
        self._prefixes.close()
        undo = self._processor
        undo.enter_context(
            attribute(
                processor.scheduler,
                "clear_cancelled_requests",
                self._clearing(processor.scheduler.clear_cancelled_requests),
            )
        )
        if self._mode is None:
            keep_apart(processor.cache, self._slots, self._prefixes)
            self._passes(processor, self._slots).wrap(undo)

    def _clearing(self, plain: Plain) -> Plain:
        def clear_cancelled_requests() -> Any:
            cancelled = plain()
            for state in cancelled:
                self._end(state.request_id, "cancelled")
            return cancelled

        return clear_cancelled_requests

    def _looping(self, plain: Plain) -> Plain:
        def run_generation_loop() -> None:
            try:
                plain()
            finally:
                for name in list(self._slots):
                    self._end(name)
                if self._attached:
                    # Otherwise the processor and its cache would wait for the garbage collector.
                    self._processor.close()
                    self._prefixes.close()

        return run_generation_loop

    def _delivering(self, plain: Plain) -> Plain:
        def deliver(output: Any) -> Any:
            self._end_finished([output])
            return plain(output)

        return deliver

    def _delivering_batch(self, plain: Plain) -> Plain:
        def deliver_batch(outputs: Any) -> Any:
            self._end_finished(outputs)
            return plain(outputs)

        return deliver_batch

    def _end_finished(self, outputs: Sequence[Any]) -> None:
        """Report finished sequences before their consumer hears of them."""
        for output in outputs:
            if output.is_finished():
                self._end(output.request_id, None if output.error is None else "cancelled")

    def _end(self, name: str, finish: Finish | None = None) -> None:
        """Close the session of a request that left the batch, and of children never split off.

        A request is split before its first token: if it was not, its children have not run.
        """
        slot = self._slots.pop(name, None)
        if slot is None:
            return
        self._sessions.close(slot.session, finish or slot.finish)
        if finish == "cancelled":
            for child in slot.children:
                if child in self._slots and not self._slots[child].has_run:
                    self._end(child, finish)
