"""Makes torch.compile forget a model whose hooks have changed.

By default torch.compile does not check whether hooks were added to a module after it compiled the
module's call: code made before an attach would run without the reading, code made under a watch
would keep it after the detach.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import CodeType
from typing import Any

import torch
from torch.nn import Module


def forget_compiled(model: Any, blocks: Iterable[Any]) -> None:
    """Drop what torch.compile has made of `model`, its parts down to `blocks`, and their calls.

    Other models that share this code compile again at their next call.
    """
    vars(model).pop("_compiled_call", None)
    if not _used():
        return
    kinds = {type(module) for module in (model, *model.children(), *blocks)}
    functions = [Module.__call__, Module._wrapped_call_impl, Module._call_impl]  # noqa: SLF001
    functions += [kind.forward for kind in kinds] + [type(model).__call__]
    for code in {code for function in functions for code in _codes(function)}:
        sys.modules["torch._dynamo"].reset_code(code)


def eager() -> AbstractContextManager[None]:
    """Return a context in which compiled models run uncompiled: there hooks are seen."""
    return torch.compiler.set_stance("force_eager") if _used() else nullcontext()


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
