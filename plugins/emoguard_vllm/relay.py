"""z and moves of earlier pipeline stages: they travel with the hidden states to the next."""

from __future__ import annotations

from typing import Any

import torch

from emoguard_vllm.settings import KEY
from emoguard_vllm.worker import Worker


def receive(worker: Worker, intermediate: Any) -> None:
    """Take what the stages before this one read, before vLLM looks at what they sent."""
    tensors = getattr(intermediate, "tensors", None)
    worker.upstream = tensors.pop(KEY, None) if isinstance(tensors, dict) else None


def send(worker: Worker, output: Any, rows: int) -> None:
    """Add what was read so far to what goes on to the next stage."""
    tensors = getattr(output, "tensors", None)
    if not isinstance(tensors, dict):
        return
    first = next(iter(tensors.values()))
    whole = torch.full(
        (len(first), worker.buffers.labels + 3), torch.nan, device=worker.buffers.device
    )
    whole[:rows] = worker.relayed(rows)
    tensors[KEY] = whole
