"""Makes torch.compile respect hooks, and drop code of a model whose hooks have changed.

By default torch.compile does not check whether a module has hooks when it runs code made for a
module of the same class: code made before an attach, or for another model that is not watched,
would run without the reading; code made under a watch would keep it after the detach.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch.nn import Module

SKIP = "skip_nnmodule_hook_guards"
"""torch's option to ignore hooks, on by default."""


def forget_compiled(model: Any, body: Any, blocks: Iterable[Any]) -> None:
    """Drop compiled code of `model`, of `body` around its `blocks`, and of their calls.

    Other models that share this code compile again at their next call.
    """
    vars(model).pop("_compiled_call", None)
    if not _used():
        return
    kinds = {type(module) for module in (model, *model.children(), body, *blocks)}
    functions = [Module.__call__, Module._wrapped_call_impl, Module._call_impl]  # noqa: SLF001
    functions += [kind.forward for kind in kinds] + [type(model).__call__]
    for code in {code for function in functions for code in _codes(function)}:
        sys.modules["torch._dynamo"].reset_code(code)


def respect_hooks() -> None:
    """Make torch.compile check hooks from now on, in this process; drop code compiled without.

    Call before each generation: the compiler may have been loaded since.
    """
    if not _used():
        return
    dynamo = sys.modules["torch._dynamo"]
    if not getattr(dynamo.config, SKIP):
        return
    # Since torch 2.13 a setting holds for its thread only, and the default for all threads.
    entries = getattr(dynamo.config, "_config", {})
    if hasattr(entries.get(SKIP), "default"):
        entries[SKIP].default = False
    if getattr(dynamo.config, SKIP):  # set explicitly in this thread
        setattr(dynamo.config, SKIP, False)
    # Drop all code: only the compiler knows all the pieces of a call (after a graph break).
    dynamo.reset_code_caches()


class _Stance:
    """Runs compiled models uncompiled while any block requires it.

    The stance is the process's, and blocks of several threads overlap: the first sets it, the last
    restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._set: Any = None

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run compiled models uncompiled, and so with hooks, in this block."""
        if not _used():
            yield
            return
        with self._lock:
            if not self._open:
                self._set = torch.compiler.set_stance("force_eager")
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if not self._open:
                    self._set.__exit__(None, None, None)


eager = _Stance().eager


def hold_still(buffer: torch.Tensor) -> None:
    """Tell the compiler that `buffer` keeps its address, so that CUDA graphs need no copy of it."""
    if _used() and buffer.is_cuda:
        sys.modules["torch._dynamo"].mark_static_address(buffer, guard=False)


def _used() -> bool:
    """Return whether anything in this process was compiled: importing dynamo takes a second."""
    return "torch._dynamo" in sys.modules


def _codes(function: Any) -> Iterator[CodeType]:
    """Yield the code of a function and of everything its decorators wrapped."""
    while function is not None:
        if hasattr(function, "__code__"):
            yield function.__code__
        function = getattr(function, "__wrapped__", None)
