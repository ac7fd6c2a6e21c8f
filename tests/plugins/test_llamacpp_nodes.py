"""Whatever arrives in the callback, llama.cpp computes its whole graph and nothing is lost."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from emoguard_llamacpp import ctypes_llama
from emoguard_llamacpp.nodes import Nodes

from emoguard.errors import EmoGuardError
from tests.support.interrupts import Armed, LateError, Signals, handling

NAMES = ("inp_embd", "Qcur-0", "l_out-0", "Qcur-1", "l_out-1", "Qcur-2", "l_out-2", "result")
WANTED = (b"l_out-0", b"l_out-2")


class Graph:
    """Nodes that are computed as llama.cpp does: up to one that is wanted, then that is shown."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.tensors = [ctypes_llama.Tensor(name=name.encode()) for name in names]
        self.computed: list[int] = []

    def compute(self, callback: Any, fails_at: int | None = None) -> bool:
        """Run a pass; return whether it is whole. One that fails shows nothing of that node."""
        self.computed = []
        for n, tensor in enumerate(self.tensors):
            address = ctypes.addressof(tensor)
            wanted = callback(address, True, None)
            if n == fails_at:
                return False
            self.computed.append(n)
            if wanted and not callback(address, False, None):
                return False
        return True


class Callback:
    """A `cb_eval` around `Nodes` that notes the names of the nodes shown."""

    def __init__(self, names: tuple[bytes, ...] = WANTED) -> None:
        self.shown: list[bytes] = []
        self.then: Callable[[], Any] = lambda: None
        self.nodes = Nodes(names, self.see)
        self.call = ctypes_llama.make_callback(self.nodes.answer)

    def see(self, tensor: int) -> None:
        self.shown.append(ctypes_llama.tensor_name(tensor))
        self.then()


def test_wanted_nodes_are_shown_in_their_order_pass_after_pass() -> None:
    graph, callback = Graph(), Callback()
    assert graph.compute(callback.call)
    assert graph.compute(callback.call)
    assert callback.shown == [b"l_out-0", b"l_out-2"] * 2
    callback.nodes.check()


def test_the_rest_of_a_short_names_place_may_hold_anything() -> None:
    graph, callback = Graph(("embd", "l_out-1")), Callback((b"embd", b"l_out-1"))
    for number, letter in enumerate(b"old name"):
        at = ctypes.addressof(graph.tensors[0]) + ctypes_llama.Tensor.name.offset + 5 + number
        ctypes.c_char.from_address(at).value = letter
    assert ctypes_llama.tensor_name(ctypes.addressof(graph.tensors[0])) == b"embd"
    assert graph.compute(callback.call)
    assert callback.shown == [b"embd", b"l_out-1"]


@pytest.mark.parametrize("fails_at", range(len(NAMES)))
def test_a_pass_that_failed_leaves_nothing_to_the_next(fails_at: int) -> None:
    graph, callback = Graph(), Callback()
    assert not graph.compute(callback.call, fails_at)
    callback.shown.clear()
    assert graph.compute(callback.call)
    assert callback.shown == [b"l_out-0", b"l_out-2"]


@contextmanager
def at_resumption(number: int, action: Callable[[], None]) -> Iterator[None]:
    """Do `action` where the callback's Python begins for the `number`-th time."""
    count = 0

    def look(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_name == "_answer":
            count += 1
            if count == number:
                action()

    # A callback of an earlier test, collected meanwhile, begins once more to be closed.
    gc.collect()
    gc.disable()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)
        gc.enable()


def interrupt() -> None:
    raise KeyboardInterrupt


CALLS = len(NAMES) + len(WANTED)


@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_an_interrupt_at_any_entry_is_raised_after_a_whole_pass(number: int) -> None:
    graph, callback = Graph(), Callback()
    with at_resumption(number, interrupt):
        assert graph.compute(callback.call)
    assert graph.computed == list(range(len(NAMES)))
    with pytest.raises(KeyboardInterrupt):
        callback.nodes.check()
    callback.shown.clear()
    assert graph.compute(callback.call)
    assert callback.shown == [b"l_out-0", b"l_out-2"]
    callback.nodes.check()


def test_an_exception_pending_after_a_node_is_raised_after_a_whole_pass() -> None:
    def stop(*_: Any) -> None:
        raise TimeoutError("too late")

    for pending, kind in (
        (lambda: 0 in Armed(LateError), LateError),
        (lambda: signal.SIGALRM in Signals(), TimeoutError),
    ):
        graph, callback = Graph(), Callback()
        callback.then = pending
        with handling(stop):
            assert graph.compute(callback.call)
        with pytest.raises(kind):
            callback.nodes.check()


def test_the_first_of_several_is_raised_once() -> None:
    errors: list[type[Exception]] = [ValueError, KeyError]
    graph, callback = Graph(), Callback()

    def fail() -> None:
        raise errors.pop(0)

    callback.then = fail
    assert graph.compute(callback.call)
    assert not errors
    with pytest.raises(ValueError):
        callback.nodes.check()
    callback.nodes.check()


def test_a_callback_that_dies_of_two_interrupts_at_once_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    graph, callback = Graph(), Callback()
    armed, signals, number = Armed(LateError), Signals(), signal.SIGALRM
    callback.then = lambda: (0 in armed, number in signals)
    with handling(signal.default_int_handler):  # written in C: the second waits for its end
        graph.compute(callback.call)
    assert lost
    assert not callback.nodes.alive
    with pytest.raises(KeyboardInterrupt):
        callback.nodes.check()
    with pytest.raises(EmoGuardError, match="broken off"):
        callback.nodes.check()


def test_a_closed_callback_holds_nothing() -> None:
    callback = Callback()
    callback.nodes.close()
    assert not callback.nodes.alive
