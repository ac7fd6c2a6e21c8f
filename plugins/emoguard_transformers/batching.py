"""Opens sessions around continuous batching: follows its entry points and its managers."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from emoguard.records import Request
from emoguard.runtime.joint import Sessions
from emoguard.runtime.patch import attribute
from emoguard_transformers.batchrequests import BatchRequests, take_batch_requests
from emoguard_transformers.blocks import find_blocks, find_body
from emoguard_transformers.follower import MARK, Follower
from emoguard_transformers.hooks import Fail, Hooks
from emoguard_transformers.passes import Passes
from emoguard_transformers.run import Run
from emoguard_transformers.step import Slot

WAYS_IN = ("generate_batch", "init_continuous_batching")

NEEDED = (
    "add_request",
    "add_requests",
    "cancel_request",
    "is_tp_driver",
    "num_return_sequences",
    "_create_batch_processor",
    "_run_generation_loop",
    "_request_lock",
    "_request_counter",
    "batch_processor",
    "continuous_batching_config",
    "distributed_helper",
    "output_router",
)
"""The attributes of a manager that are used."""


class Batching:
    """Follows every manager of continuous batching that `model` makes while wrapped."""

    def __init__(self, model: Any, sessions: Sessions, hooks: Hooks, fail: Fail) -> None:
        self._model = model
        self._sessions = sessions
        self._hooks = hooks
        self._fail = fail
        self._attached = True
        self._local = threading.local()
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Wrap the model's methods in this block, and those of every manager they return."""
        model = self._model
        wrappers = dict(zip(WAYS_IN, (self._generating, self._making), strict=True))
        with ExitStack() as undo:
            for name, wrap in wrappers.items():
                if hasattr(model, name):
                    undo.enter_context(attribute(model, name, wrap(getattr(model, name))))
            undo.callback(self._let_go)
            yield

    def _let_go(self) -> None:
        self._attached = False
        for follower in list(self._followers):
            follower.detach()

    def _generating(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(plain)

        def generate_batch(*args: Any, **kwargs: Any) -> Any:
            requests = take_batch_requests(kwargs)
            if not self._attached:
                return plain(*args, **kwargs)
            outer = self._hooks.run
            if outer is not None and outer.tape is None:
                requests = self._taken_over(outer)
            prompts = signature.bind(*args, **kwargs).arguments["inputs"]
            group = BatchRequests.of(prompts, requests)
            group.check(self._sessions)
            with self._pending(group):
                outputs = plain(*args, **kwargs)
            if group.error is not None:
                raise group.error
            return outputs

        return generate_batch

    def _taken_over(self, outer: Run) -> Any:
        """Return the requests of a `generate` that only delegates: its sequences count here."""
        outer.closed = True
        for session in outer.sessions:
            self._sessions.drop(session)
        return outer.requests

    @contextmanager
    def _pending(self, group: BatchRequests) -> Iterator[None]:
        """Give `group` to the next `add_requests` of this thread."""
        self._local.group = group
        try:
            yield
        finally:
            self._local.group = None

    def _take_pending(self) -> BatchRequests | None:
        group: BatchRequests | None = getattr(self._local, "group", None)
        self._local.group = None
        return group

    def _making(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def init_continuous_batching(*args: Any, **kwargs: Any) -> Any:
            manager = plain(*args, **kwargs)
            if self._attached:
                self._follow(manager)
            return manager

        return init_continuous_batching

    def _follow(self, manager: Any) -> None:
        """Follow a manager, unless it is followed: one that is kept is returned again."""
        if vars(manager).get(MARK) in self._followers:
            return
        if any(not hasattr(manager, name) for name in NEEDED):
            session = self._sessions.open(Request())
            session.held = Slot(session)
            self._sessions.skip(session, "continuous batching of this release of Transformers")
            self._sessions.close(session, "unknown")
            return
        follower = Follower(
            manager,
            unreadable(manager),
            self._sessions,
            partial(Passes, self._sessions, self._hooks, self._fail),
            self._take_pending,
        )
        self._followers.add(follower)
        follower.follow()


def unreadable(manager: Any) -> str | None:
    """Return the reason why the passes of a manager cannot be read, None if they can."""
    kind = "continuous batching"
    config = manager.continuous_batching_config
    if manager.distributed_helper.tp_size > 1:
        return f"{kind} with tensor parallelism"
    if any(config.cuda_graph_booleans):
        return f"{kind} with CUDA graphs (use_cuda_graph=False does without)"
    if config.varlen_compile_config is not None or config.decode_compile_config is not None:
        return f"{kind} with a compiled pass"
    if config.use_async_batching:
        return f"asynchronous {kind} (use_async_batching=False does without)"
    if is_compiled(manager.model):
        return f"{kind} of a compiled model"
    return None


def is_compiled(model: Any) -> bool:
    """Return whether torch.compile was applied to the model, its body or any of its blocks."""
    modules = (model, find_body(model), *find_blocks(model))
    return any(
        getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module.forward, "_torchdynamo_orig_callable")
        for module in modules
    )
