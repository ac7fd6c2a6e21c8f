"""Finds the residual stream in the output of a decoder block."""

from __future__ import annotations

from typing import Any

import torch


def hidden_state(output: Any) -> torch.Tensor:
    """Return the residual stream from a block's output: a tensor, or a tuple it leads."""
    state = output[0] if isinstance(output, tuple) else output
    assert isinstance(state, torch.Tensor)
    return state
