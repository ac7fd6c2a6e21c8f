"""Overrides `__call__` of one instance, which Python looks up on the class."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def called_through(model: Any, call: Callable[..., Any]) -> Iterator[None]:
    """Route `model(...)` through `call(original, ...)` in this block, for this instance alone.

    The instance gets a subclass of its own class with the same name. Pickles and copies are of the
    class before.
    """
    before = type(model)

    class Called(before):  # type: ignore[valid-type,misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return call(functools.partial(before.__call__, self), *args, **kwargs)

        def __reduce_ex__(self, protocol: Any) -> Any:
            return _new, (before,), self.__getstate__()

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Called, name, getattr(before, name))
    model.__class__ = Called
    try:
        yield
    finally:
        if type(model) is Called:
            model.__class__ = before


def _new(cls: Any) -> Any:
    return cls.__new__(cls)
