"""Reads the residual a token is chosen from, by either of two paths with the same numbers.

Both keep the last row of the last decode in `rows`. `before` and `after` stand around every decode,
so that a row is read at most once per decode and a missing one is seen; `check` comes after every
pass. Only the callback can change residuals: it calls `steer` after its own reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.runtime.interrupts import is_interrupt
from emoguard_llamacpp import ctypes_llama
from emoguard_llamacpp.nodes import Nodes
from emoguard_llamacpp.steer import Steer

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME_LOGITS = 1e-2
"""Largest difference, in standard deviations, between logits of equal contexts: none on a CPU, a
few thousandths where a GPU fuses fewer operations under a callback."""


class NativeReader:
    """Reads llama.cpp's own copies of block inputs: the output of layer N is the input of N + 1."""

    name = "native"

    def __init__(self, llm: Any, layers: Sequence[int], hidden: int) -> None:
        self.rows = np.full((len(layers), hidden), np.nan, np.float32)
        self.fresh = False
        self._llm = llm
        self._layers = tuple(layers)
        self._context = llm.ctx
        self._last = 0
        self.copy = ctypes_llama.row_copier(self._context, layers, self.rows)

    def start(self, witness: Sequence[int]) -> None:
        """Switch the copies on."""
        for layer in self._layers:
            ctypes_llama.keep_layer_input(self._context, layer + 1, on=True)

    def stop(self, *, keep_state: bool) -> None:
        """Switch the copies off."""
        if self._llm.ctx == self._context:
            for layer in self._layers:
                ctypes_llama.keep_layer_input(self._context, layer + 1, on=False)

    def before(self, tokens: int) -> None:
        """Forget the last decode."""
        self.fresh = False

    def check(self) -> None:
        """Do nothing: no Python runs inside a pass."""

    def after(self, tokens: int) -> None:
        """Note a decode of `tokens` tokens, done in chunks of the model's batch size."""
        self._last = (tokens - 1) % self._llm.n_batch
        self.fresh = True

    def take(self) -> bool:
        """Copy the row of the last decode to `rows`; False when there was none since the last."""
        if not self.fresh:
            return False
        if self._llm.ctx != self._context:
            raise EmoGuardError("the context of this Llama was replaced while it was watched")
        self.fresh = False
        self.copy(self._last)
        return True

    def capture(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Evaluate `tokens`, at most one batch, and return all rows (layers, tokens, hidden)."""
        self._llm.eval(tokens)
        hidden = self.rows.shape[1]
        parts = [
            ctypes_llama.layer_input(self._context, layer + 1, len(tokens), hidden)
            for layer in self._layers
        ]
        return np.array(parts, np.float32)


class CallbackReader:
    """Reads `l_out-N` as the graph computes it, through `cb_eval` in a context made for that."""

    name = "callback"

    def __init__(self, llm: Any, layers: Sequence[int], hidden: int) -> None:
        self.rows = np.full((len(layers), hidden), np.nan, np.float32)
        self.fault: Exception | None = None
        names = [b"l_out-%d" % layer for layer in layers]
        self._llm = llm
        self._names = names
        self._hidden = hidden
        self._places = {name: self.rows[n].ctypes.data for n, name in enumerate(names)}
        self._seen: set[bytes] = set()
        self._captured: dict[bytes, list[NDArray[np.float32]]] | None = None
        self.fresh = False
        self.steer: Steer | None = None
        self._nodes: Nodes
        self._callback: Any

    def start(self, witness: Sequence[int]) -> None:
        """Rebuild the context with the callback; refuse if that changes the model's logits.

        The rebuilt context has the model's own parameters and LoRA adapter. Anything else that was
        set on the old one by hand (a control vector) cannot be carried over.
        """
        ctypes_llama.check_layout()
        self._llm.reset()
        self._llm.eval(witness)
        logits = ctypes_llama.last_logits(self._llm, self._llm.ctx)
        with ctypes_llama.own_context(self._llm, len(witness), len(witness)) as context:
            ctypes_llama.decode(context, list(witness))
            wanted = ctypes_llama.last_logits(self._llm, context)
        difference = float(np.abs(logits - wanted).max())
        if not difference <= SAME_LOGITS * float(wanted.std()):
            raise EmoGuardError(
                "a control vector or another adapter was set on this Llama by hand: reading "
                "through the callback needs a new context, which would lose it"
            )
        self._nodes, self._callback = self._join()

    def stop(self, *, keep_state: bool) -> None:
        """Rebuild the context without the callback."""
        ctypes_llama.swap_context(self._llm, keep_state=keep_state)
        self._release()

    def _join(self) -> tuple[Nodes, Any]:
        """Rebuild the context with a callback of its own; return both."""
        nodes = Nodes(self._names, self._show)
        callback = ctypes_llama.make_callback(nodes.answer)
        ctypes_llama.swap_context(self._llm, callback)
        return nodes, callback

    def _release(self) -> None:
        """Release a callback that no context calls any more."""
        ctypes_llama.release_callback(self._callback)
        self._nodes.close()

    def before(self, tokens: int) -> None:
        """Forget the last decode and its faults, before one of `tokens` tokens."""
        if self.steer is not None:
            self.steer.before(tokens)
        self.fresh = False
        self.fault = None
        self._seen.clear()

    def check(self) -> None:
        """Raise the exception of a callback during a pass; the pass itself is whole.

        Raises:
            BaseException: Ctrl-C, an exception of a signal's handler, or one set by another thread.
            EmoGuardError: the pass is not whole; the cache, which holds a part of it, is dropped.

        """
        try:
            self._nodes.check()
        finally:
            if not self._nodes.alive:
                fresh = self._join()
                self._release()
                self._nodes, self._callback = fresh

    def after(self, tokens: int) -> None:
        """Note that a decode is over."""
        self.fresh = len(self._seen) == len(self._names)

    def take(self) -> bool:
        """Return whether `rows` is of a decode since the last call; raises the callback's fault."""
        if self.fault is not None:
            raise self.fault
        fresh, self.fresh = self.fresh, False
        return fresh

    def capture(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Evaluate `tokens` and return all rows, float32 (layers, tokens, hidden)."""
        self._captured = {name: [] for name in self._names}
        self._llm.eval(tokens)
        self.check()
        captured, self._captured = self._captured, None
        if self.fault is not None:
            raise self.fault
        for name, rows in captured.items():
            if sum(map(len, rows)) != len(tokens):
                raise EmoGuardError(
                    f"this architecture does not compute {name.decode()} for every token: "
                    "it cannot be read"
                )
        return np.array([np.concatenate(captured[name]) for name in self._names], np.float32)

    def see(self, tensor: int) -> None:
        """Copy the last row of a node that was computed."""
        name = ctypes_llama.tensor_name(tensor)
        place = self._places.get(name)
        if place is None:
            return
        ctypes_llama.copy_last_row(tensor, self._hidden, place)
        self._seen.add(name)
        if self._captured is not None:
            self._captured[name].append(ctypes_llama.tensor_rows(tensor, self._hidden))

    def _show(self, tensor: int) -> None:
        """Read a node, then steer it. Errors in reading are kept; only interrupts propagate."""
        if self.fault is None:
            try:
                self.see(tensor)
            except Exception as error:
                if is_interrupt(error):
                    raise
                self.fault = error
        if self.steer is not None:
            self.steer.see(tensor)


Reader = NativeReader | CallbackReader
READERS: dict[str, type[Reader]] = {"native": NativeReader, "callback": CallbackReader}
