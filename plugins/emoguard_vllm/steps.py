"""Wraps the steps that vLLM's two model runners share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emoguard_vllm.outputs import attach
from emoguard_vllm.runner import gathered, of, prepare
from emoguard_vllm.worker import Part, Worker


def load(plain: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
    """Load the model, and put hooks on it."""
    loaded = plain(runner, *args, **kwargs)
    prepare(runner, runner.max_num_tokens)
    return loaded


def enter(worker: Worker, scheduled: Any) -> None:
    """Pass new and ended requests to the worker."""
    news = [(new.req_id, new.sampling_params) for new in scheduled.scheduled_new_reqs]
    worker.enter(news, scheduled.finished_req_ids)


def parts(
    requests: Sequence[str],
    counts: Sequence[int],
    past: Sequence[int],
    drafts: Mapping[str, Sequence[int]],
) -> list[Part]:
    """Return the parts of a step: of each request as many rows as `counts` has, one by one."""
    step, start = [], 0
    for request, count, begin in zip(requests, counts, past, strict=False):
        end = start + count
        reads = range(end - 1 - len(drafts.get(request, ())), end)
        step.append(Part(request, start, count, begin, reads))
        start = end
    return step


def sample(plain: Callable[..., Any], runner: Any, grammar: Any) -> Any:
    """Sample, and attach the rows of this step to its tokens."""
    worker = of(runner)
    if worker is None or runner.execute_model_state is None:
        return plain(runner, grammar)
    rows = gathered(worker)
    return attach(plain(runner, grammar), rows, worker)
