"""Drives EmoGuard's worker in vLLM's first model runner, the one for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emoguard_vllm import seams
from emoguard_vllm.relay import receive, send
from emoguard_vllm.runner import guarded, of
from emoguard_vllm.steps import enter, load, parts, sample


def register() -> None:
    """Wrap the runner's steps."""
    seams.wrap(seams.V1_LOAD, load)
    seams.wrap(seams.V1_LOAD_CPU, load)
    seams.wrap(seams.V1_PREPARE, _prepare_inputs)
    seams.wrap(seams.V1_EXECUTE, _execute)
    seams.wrap(seams.V1_SAMPLE, sample)


def _execute(
    plain: Callable[..., Any], runner: Any, scheduled: Any, intermediate: Any = None, **kwargs: Any
) -> Any:
    worker = of(runner)
    if worker is None:
        return plain(runner, scheduled, intermediate, **kwargs)
    with guarded(worker):
        enter(worker, scheduled)
        receive(worker, intermediate)
    output = plain(runner, scheduled, intermediate, **kwargs)
    with guarded(worker):
        send(worker, output, scheduled.total_num_scheduled_tokens)
    return output


def _prepare_inputs(
    plain: Callable[..., Any], runner: Any, scheduled: Any, counts: Any, **kwargs: Any
) -> Any:
    prepared = plain(runner, scheduled, counts, **kwargs)
    worker = of(runner)
    if worker is None:
        return prepared
    batch = runner.input_batch
    with guarded(worker):
        past = batch.num_computed_tokens_cpu[: len(counts)].tolist()
        drafts = scheduled.scheduled_spec_decode_tokens
        worker.place(
            scheduled.total_num_scheduled_tokens,
            parts(batch.req_ids, counts.tolist(), past, drafts),
            lambda n: batch.token_ids_cpu[n, : batch.num_tokens_no_spec[n]].tolist(),
        )
    return prepared
