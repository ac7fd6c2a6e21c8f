"""Copies the outputs of blocks as a graph computes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard_llamacpp import ctypes_llama
from emoguard_llamacpp.nodes import Nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

EMBEDDINGS = (b"inp_scaled", b"inp_embd", b"embd")
"""Names of block 0's input (layer -1), by architecture and version; the first computed counts."""


class Tap:
    """Keeps every row of the wanted blocks' outputs; `answer` is the `cb_eval` of its context."""

    def __init__(self, layers: Sequence[int], hidden: int) -> None:
        self._names = [(b"l_out-%d" % n,) if n >= 0 else EMBEDDINGS for n in layers]
        self._rows: dict[bytes, list[NDArray[np.float32]]] = {
            name: [] for names in self._names for name in names
        }
        self._hidden = hidden
        self._nodes = Nodes(self._rows, self.see)
        self.answer = self._nodes.answer

    def see(self, tensor: int) -> None:
        """Keep the rows of a node, if it is wanted."""
        rows = self._rows.get(ctypes_llama.tensor_name(tensor))
        if rows is not None:
            rows.append(ctypes_llama.tensor_rows(tensor, self._hidden))

    def take(self, tokens: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows (tokens, hidden) of each layer since the last call, and forget them.

        Raises:
            BaseException: an interrupt while the graph was computed (Ctrl-C, a signal's handler).
            EmoGuardError: the graph lacks a wanted node, or rows for each of the `tokens`.

        """
        self._nodes.check()
        for names in self._names:
            rows = next((self._rows[name] for name in names if self._rows[name]), [])
            if sum(map(len, rows)) != tokens:
                raise EmoGuardError(
                    f"this architecture does not name {names[0].decode()} for every token: "
                    "it cannot be read"
                )
            yield rows[0] if len(rows) == 1 else np.concatenate(rows)
            for name in names:
                self._rows[name].clear()
