"""The residual stream in what a decoder block returns."""

from __future__ import annotations

from typing import Any

import torch


def hidden_state(output: Any) -> torch.Tensor:
    """Return the residual stream from what a block returned: a tensor, or a tuple it leads."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, torch.Tensor)
    return found
