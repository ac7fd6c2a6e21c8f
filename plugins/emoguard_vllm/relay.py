"""Passes z and moves of earlier pipeline stages on with the hidden states."""

from __future__ import annotations

from typing import Any

import torch
from emoguard_torch.steer import MOVES

from emoguard_vllm.settings import KEY
from emoguard_vllm.worker import Worker


def receive(worker: Worker, intermediate: Any) -> None:
    """Take the readings of earlier stages out of their message, before vLLM reads it."""
    tensors = getattr(intermediate, "tensors", None)
    worker.upstream = tensors.pop(KEY, None) if isinstance(tensors, dict) else None


def send(worker: Worker, output: Any, rows: int) -> None:
    """Add the readings so far to the message to the next stage."""
    tensors = getattr(output, "tensors", None)
    if not isinstance(tensors, dict):
        return
    first = next(iter(tensors.values()))
    whole = torch.full(
        (len(first), worker.buffers.labels + MOVES), torch.nan, device=worker.buffers.device
    )
    whole[:rows] = worker.relayed(rows)
    tensors[KEY] = whole
