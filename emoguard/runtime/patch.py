"""Puts EmoGuard's attributes onto a model object, and takes them away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MISSING = object()
STATE = "__getstate__"

Undo = Callable[[dict[str, Any]], None]
"""Takes one of EmoGuard's attributes out of the state of an object."""


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute in this block; afterwards put back the one that was there.

    An attribute that other code has put over this one since is left alone. Copies and pickles of
    `owner` have the original one.
    """
    attributes = vars(owner)
    before = attributes.get(name, MISSING)

    def undo(state: dict[str, Any]) -> None:
        if state.get(name) is not value:
            return
        if before is MISSING:
            del state[name]
        else:
            state[name] = before

    attributes[name] = value
    try:
        with left_out(owner, undo):
            yield
    finally:
        undo(attributes)


@contextmanager
def left_out(owner: Any, undo: Undo) -> Iterator[None]:
    """Keep EmoGuard's attributes out of copies and pickles of `owner` in this block.

    `undo` takes it out of a copy of the object's state. What is watched is one object: its copy is
    not, whether `copy`, `pickle` or `torch.save` makes it.
    """
    attributes = vars(owner)
    state = attributes.get(STATE)
    if not isinstance(state, _State):
        state = attributes[STATE] = _State(owner, attributes.get(STATE))
    state.undos.append(undo)
    try:
        yield
    finally:
        state.undos.remove(undo)
        if not state.undos and attributes.get(STATE) is state:
            del attributes[STATE]
            if state.before is not None:
                attributes[STATE] = state.before


class _State:
    """The `__getstate__` of one object, which the protocols of copying and pickling look up."""

    def __init__(self, owner: Any, before: Callable[[], Any] | None) -> None:
        self.before = before
        self.undos: list[Undo] = []
        self._owner = owner

    def __call__(self) -> Any:
        cls: Any = type(self._owner)
        whole = self.before() if self.before else cls.__getstate__(self._owner)
        if not isinstance(whole, dict):
            return whole
        state = dict(whole)
        if state.get(STATE) is self:
            del state[STATE]
        for undo in reversed(self.undos):  # the last put on comes off first
            undo(state)
        return state
