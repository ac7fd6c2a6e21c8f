"""Drives EmoGuard's worker in vLLM's second model runner, the default on GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emoguard_vllm import seams
from emoguard_vllm.runner import guarded, of
from emoguard_vllm.steps import enter, load, parts, sample


def register() -> None:
    """Wrap the runner's steps, where this build has it."""
    if seams.V2_LOAD.missing():
        return
    seams.wrap(seams.V2_LOAD, load)
    seams.wrap(seams.V2_PREPARE, _prepare_inputs)
    seams.wrap(seams.V2_EXECUTE, _execute)
    seams.wrap(seams.V2_SAMPLE, sample)


def _execute(
    plain: Callable[..., Any],
    runner: Any,
    scheduled: Any,
    intermediate: Any = None,
    dummy_run: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Any:
    worker = of(runner)
    if worker is not None:
        with guarded(worker):
            enter(worker, scheduled)
    return plain(runner, scheduled, intermediate, dummy_run, *args, **kwargs)


def _prepare_inputs(
    plain: Callable[..., Any], runner: Any, scheduled: Any, *args: Any, **kwargs: Any
) -> Any:
    batch = plain(runner, scheduled, *args, **kwargs)
    worker = of(runner)
    if worker is None:
        return batch
    with guarded(worker):
        counts = batch.num_scheduled_tokens.tolist()
        past = batch.num_computed_tokens_np.tolist()
        placed = parts(batch.req_ids, counts, past, scheduled.scheduled_spec_decode_tokens)
        worker.place(scheduled.total_num_scheduled_tokens, placed, lambda _: ())
    return batch
