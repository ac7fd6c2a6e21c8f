"""Makes torch.compile look at hooks, and forget a model whose hooks have changed.

By default torch.compile does not check whether a module has hooks when it runs code made for a
module of the same class: code made before an attach, or for another model that is not watched,
would run without the reading; code made under a watch would keep it after the detach.
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


def look_at_hooks(model: Any, blocks: Iterable[Any]) -> None:
    """Have torch.compile check hooks from now on, in this process; forget what it made without.

    To be asked before each generation: the compiler may have come into the process since.
    """
    if not _used():
        return
    config = sys.modules["torch._dynamo"].config
    if config.skip_nnmodule_hook_guards:
        config.skip_nnmodule_hook_guards = False
        forget_compiled(model, blocks)


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
