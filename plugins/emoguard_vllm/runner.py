"""Puts a worker of EmoGuard beside each of vLLM's two model runners."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emoguard_vllm.settings import Layout
from emoguard_vllm.worker import Gathered, Worker

log = logging.getLogger("emoguard")

MARK = "_emoguard"
"""Attribute of a model runner: its `Worker`, None where the engine is not read."""


def prepare(runner: Any, tokens: int) -> None:
    """Put hooks on a model that was just loaded: before it is profiled, compiled and captured.

    `tokens` are the most rows of a step.

    Raises:
        EmoGuardError: a model whose blocks are not found.

    """
    config = runner.vllm_config
    layout = Layout.of(config.additional_config)
    before = getattr(runner, MARK, None)
    if layout is None or (before is not None and before.model is runner.model):
        return
    sizes = config.compilation_config.cudagraph_capture_sizes or [0]
    hidden = config.model_config.get_hidden_size()
    worker = Worker(runner.model, layout, hidden, max(tokens, *sizes), runner.device)
    setattr(runner, MARK, worker)


def of(runner: Any) -> Worker | None:
    """Return the worker beside a runner."""
    return getattr(runner, MARK, None)


@contextmanager
def guarded(worker: Worker) -> Iterator[None]:
    """Keep EmoGuard's errors from the engine: followed sequences are reported as broken."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (the response must not notice)
        worker.break_off(f"{type(error).__name__}: {error}")


def gathered(worker: Worker) -> Gathered | None:
    """Return the rows of a step; lost ones where gathering breaks."""
    with guarded(worker):
        return worker.gather()
    return worker.lost()
