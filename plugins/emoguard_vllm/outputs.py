"""Carries rows with the tokens of a step, from the worker to the front end."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from emoguard_vllm.runner import guarded
from emoguard_vllm.settings import KEY
from emoguard_vllm.wire import Carried, Step
from emoguard_vllm.worker import Gathered, Worker

log = logging.getLogger("emoguard")


@contextmanager
def dropping() -> Iterator[None]:
    """Drop rows that EmoGuard fails to carry: without them a response is reported as incomplete."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (the engine would end, for all requests)
        _log_once(f"{type(error).__name__}: {error}")


@functools.lru_cache
def _log_once(error: str) -> None:
    log.error("rows were lost on their way (logged once): %s", error)


def attach(output: Any, gathered: Gathered | None, worker: Worker) -> Any:
    """Return a runner's output with the rows of its tokens.

    An output that is still being computed adds them when it is read.
    """
    if gathered is None:
        return output
    if hasattr(output, "get_output"):
        return _later(output, gathered, worker)
    if getattr(output, "req_ids", None):
        with guarded(worker):
            _put(output, gathered)
    return output


def _put(output: Any, gathered: Gathered) -> None:
    output.emoguard = gathered.step()


def _later(output: Any, gathered: Gathered, worker: Worker) -> Any:
    from vllm.v1.outputs import AsyncModelRunnerOutput  # noqa: PLC0415

    class WithRows(AsyncModelRunnerOutput):
        """The output that vLLM waits for, which then has EmoGuard's rows."""

        def get_output(self) -> Any:
            """Wait for the tokens, and put the rows with them."""
            computed = output.get_output()
            with guarded(worker):
                _put(computed, gathered)
            return computed

        def __getattr__(self, name: str) -> Any:
            return getattr(output, name)

    return WithRows()


def forward(
    plain: Callable[..., Any], scheduler: Any, scheduled: Any, output: Any, *args: Any, **kw: Any
) -> Any:
    """Pass the rows on in the EngineCore: with each output, as many as it has tokens."""
    step: Step | None = getattr(output, KEY, None)
    groups = plain(scheduler, scheduled, output, *args, **kw)
    if step is not None:
        for group in groups.values():
            for each in group.outputs:
                with dropping():
                    _add(each, step)
    return groups


def _add(output: Any, step: Step) -> None:
    carried = step.carried(output.request_id, len(output.new_token_ids))
    if carried is not None:
        output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: carried.pack()}


def take(output: Any) -> Carried | None:
    """Take the rows out of an output in the front end, before vLLM looks at it."""
    with dropping():
        params = output.kv_transfer_params
        if params and KEY in params:
            packed = params.pop(KEY)
            output.kv_transfer_params = params or None
            return Carried.unpack(packed)
    return None


def strip(plain: Callable[..., Any], processor: Any, outputs: Any, *args: Any, **kw: Any) -> Any:
    """Let no row of a watch that was detached meanwhile reach a client."""
    for output in outputs:
        take(output)
    return plain(processor, outputs, *args, **kw)


def note_finish(
    plain: Callable[..., Any],
    state: Any,
    new_token_ids: Any,
    pooling_output: Any,
    finish_reason: Any,
    *args: Any,
    **kw: Any,
) -> Any:
    """Keep the finish reason that the caller gets.

    It is not always the EngineCore's: stop strings are found in the front end, and count for more
    than a length that is reached with the same token.
    """
    with dropping():
        state.emoguard_finish = finish_reason
    return plain(state, new_token_ids, pooling_output, finish_reason, *args, **kw)
