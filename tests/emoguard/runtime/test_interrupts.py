"""What comes from outside is told from what the code itself raised."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from emoguard.errors import EmoGuardError
from emoguard.runtime.interrupts import is_interrupt
from tests.support.interrupts import (
    Armed,
    DescribedError,
    LateError,
    Signals,
    handling,
    set_in_this_thread,
)


def caught(action: Callable[..., Any], *args: Any) -> BaseException:
    with pytest.raises(BaseException) as actual:
        action(*args)
    return actual.value


# Where the interpreter looks: after a function in C, at a function's start, at a loop's end.


def after_c(_look: Any, now: Callable[[], Any]) -> None:
    now()


def at_a_start(look: Callable[[], bool], _now: Any) -> None:
    def nothing() -> None:
        pass

    _ = look() or nothing()


def at_a_loops_end(look: Callable[[], bool], _now: Any) -> None:
    for _ in range(3):
        look()


PLACES = (after_c, at_a_start, at_a_loops_end)


def too_late(*_: Any) -> None:
    raise TimeoutError("too late")


def deeper(_number: int, _frame: Any) -> None:
    too_late()


class Deadline:
    def stop(self, *args: Any) -> None:
        raise LateError("a method", args[0])

    def __call__(self, number: int, frame: Any) -> None:
        int("nonsense")


HANDLERS: dict[str, Callable[..., Any]] = {
    "function": too_late,
    "function that calls": deeper,
    "method": Deadline().stop,
    "object": Deadline(),
    "partial": functools.partial(lambda _limit, _number, frame: too_late(frame), 3),
    "lambda": lambda *_: int("x"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_an_exception_of_a_signals_handler_is_an_interrupt(
    place: Callable[..., Any], handler: Callable[..., Any]
) -> None:
    def look() -> bool:
        return signal.SIGALRM in Signals()

    with handling(handler):
        error = caught(place, look, lambda: signal.raise_signal(signal.SIGALRM))
    assert not isinstance(error, EmoGuardError)
    assert is_interrupt(error)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [LateError, DescribedError, TimeoutError, RuntimeError])
def test_an_exception_set_by_another_thread_is_an_interrupt(
    place: Callable[..., Any], kind: type[Exception]
) -> None:
    armed = Armed(kind)

    def look() -> bool:
        return 0 in armed and False

    error = caught(place, look, lambda: set_in_this_thread(kind))
    assert type(error) is kind
    assert is_interrupt(error)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_base_exception_is_an_interrupt(kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind

    assert is_interrupt(caught(leave))


@pytest.mark.parametrize(
    "error", [LateError, DescribedError, LateError("why"), EmoGuardError("in words")]
)
def test_an_exception_raised_by_code_is_its_own(error: Any) -> None:
    def fail() -> None:
        raise error

    def in_a_block() -> None:
        with block():
            fail()

    def kept() -> None:
        raise caught(fail)

    assert not any(is_interrupt(caught(way)) for way in (fail, in_a_block, kept))


@contextmanager
def block() -> Iterator[None]:
    try:
        yield
    finally:
        pass


def recurse() -> None:
    recurse()


@pytest.mark.parametrize(
    "action",
    [
        [].pop,
        lambda: {}["x"],
        lambda: int("x"),
        lambda: next(iter(())),
        lambda: bytearray(2**62),
        lambda: np.dot(np.zeros(2), np.zeros(3)),
        lambda: (1).upper,  # type: ignore[attr-defined]
        lambda: 1 / 0,
        recurse,
    ],
    ids=["index", "key", "value", "next", "memory", "numpy", "attribute", "division", "recursion"],
)
def test_an_exception_of_an_instruction_or_a_c_function_is_its_own(action: Any) -> None:
    assert not is_interrupt(caught(action))
