"""Keeps EmoGuard's own arithmetic in float32, whatever precision the caller chose for the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def uncast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which the caller's autocast is off on `device`."""
    # Autocast is usually off, and the check takes a twentieth of the time of switching it off.
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@contextmanager
def full_matmul() -> Iterator[None]:
    """Multiply matrices without TF32 in this block, in all of the process."""
    matmul = torch.backends.cuda.matmul
    # Older releases have only a switch; in newer ones it cannot be read once the other is used.
    newer = hasattr(matmul, "fp32_precision")
    name, full = ("fp32_precision", "ieee") if newer else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        yield
    finally:
        setattr(matmul, name, before)
