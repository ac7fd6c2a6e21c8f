"""Exceptions from outside, at an exact place: what Ctrl-C, time-outs and other threads do."""

from __future__ import annotations

import ctypes
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class LateError(Exception):
    """What a time-out sets in a thread."""


class DescribedError(Exception):
    """One that describes itself."""

    def __init__(self, message: str = "this took too long") -> None:
        super().__init__(message)


def set_in_this_thread(kind: type[BaseException]) -> None:
    """Let `kind` be raised in the thread that runs this, as soon as the interpreter looks."""
    _set(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(kind))


_set = ctypes.pythonapi.PyThreadState_SetAsyncExc


class Armed:
    """`item in Armed(kind)` sets `kind` without giving the interpreter a moment to look.

    No instruction of Python runs in it and no call ends with it: the exception is raised at the
    next start of a function, end of a loop's body or return from C, wherever that is.
    """

    def __new__(cls, kind: type[BaseException]) -> Any:
        """Return an instance of a class made for this thread."""
        ident = ctypes.c_ulong(threading.get_ident())
        set_it = staticmethod(functools.partial(_set, ident, ctypes.py_object(kind)))
        return type("Armed", (), {"__contains__": set_it})()


class Signals:
    """`number in Signals()` raises a signal in the same way: its handler runs at the next look."""

    __contains__ = staticmethod(signal.raise_signal)


def then(action: Callable[..., Any], kind: type[BaseException]) -> Callable[..., Any]:
    """Return `action` with `kind` pending when it returns."""
    armed = Armed(kind)

    def acting(*args: Any, **kwargs: Any) -> Any:
        result = action(*args, **kwargs)
        _ = 0 in armed
        return result

    return acting


@contextmanager
def handling(handler: Callable[..., Any]) -> Iterator[None]:
    """Have `handler` handle SIGALRM in this block."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
