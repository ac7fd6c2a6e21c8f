"""Defines the operator at the end of a block: one opaque node in compiled code.

It finds its memory in this process, so no tensor of ours becomes an input of a graph, and compiled
artefacts load in any process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

See = Callable[[torch.Tensor, "torch.Tensor | None", int], None]
"""Takes the output of block `layer`: the split stream, or the stream and None."""


class _Seer:
    """The model that runs now. A process may hold several; their steps do not overlap."""

    see: See | None = None


def listen(see: See | None) -> None:
    """Have the operator call `see` from now on."""
    _Seer.see = see


def block(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int) -> None:
    """Read the stream behind block `layer`, and move it, in place."""
    if _Seer.see is not None:
        _Seer.see(hidden, residual, layer)


_library = torch.library.Library("emoguard", "FRAGMENT")
_library.define("block(Tensor(a!) hidden, Tensor(b!)? residual, int layer) -> ()")
for _key in ("CPU", "CUDA"):
    _library.impl("block", block, _key)
torch.library.register_fake("emoguard::block", lambda *_: None, lib=_library)


class Hook:
    """The forward hook of one block; the compiler traces it with the block."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(self, _module: Any, _args: Any, output: Any) -> None:
        """Hand the block's output to the operator."""
        if isinstance(output, tuple):
            torch.ops.emoguard.block(output[0], output[1], self.layer)
        else:
            torch.ops.emoguard.block(output, None, self.layer)
