"""Distinguishes exceptions that interrupt a thread from those raised by its own code."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import FrameType, TracebackType

PAUSES = (bytes((dis.opmap["RESUME"], 0)), bytes((dis.opmap["JUMP_BACKWARD"],)))
"""Names of instructions at which the interpreter runs signal handlers and nothing else: at the
start of a function and at the end of a loop's body."""

RAISE = bytes((dis.opmap["RAISE_VARARGS"],))

BARE_IN_C = (MemoryError, StopIteration)
"""Exceptions that functions written in C raise without arguments, too."""


def is_interrupt(error: BaseException) -> bool:
    """Return whether a caught `error` came from outside the code that was running.

    Code that keeps its own errors from its caller must let these pass: Ctrl-C and whatever else is
    no `Exception`, what the handler of a signal raised, and what another thread set with
    `PyThreadState_SetAsyncExc`. The traceback shows them: the interpreter raises between two
    instructions, hands a handler the frame that it interrupts, and raises the other thread's class
    without arguments where no `raise` stands.
    """
    if not isinstance(error, Exception):
        return True
    steps = list(_steps(error.__traceback__))
    if any(code.startswith(PAUSES) or _has_its_caller(frame) for frame, code in steps):
        return True
    return bool(steps) and not steps[-1][1].startswith(RAISE) and _is_bare(error)


def _steps(trace: TracebackType | None) -> Iterator[tuple[FrameType, bytes]]:
    """Yield each frame of a traceback, outermost first, and the instruction it had come to."""
    while trace is not None:
        code = trace.tb_frame.f_code.co_code
        yield trace.tb_frame, code[trace.tb_lasti : trace.tb_lasti + 2]
        trace = trace.tb_next


def _has_its_caller(frame: FrameType) -> bool:
    """Return whether a function got its caller's frame as an argument, as handlers do."""
    info = inspect.getargvalues(frame)
    values = [info.locals.get(name) for name in info.args]
    values += info.locals.get(info.varargs or "", ())
    return frame.f_back is not None and any(value is frame.f_back for value in values)


def _is_bare(error: Exception) -> bool:
    """Return whether `error` was made without arguments."""
    try:
        return not isinstance(error, BARE_IN_C) and error.args == type(error)().args
    except Exception:  # noqa: BLE001  (a class may want arguments: nobody can set it from outside)
        return False
