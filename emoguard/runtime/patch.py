"""Puts attributes of our own onto a model object, and takes them away again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute in this block; afterwards put back the one that was there.

    One that somebody else has put over ours since is theirs to take away.
    """
    attributes = vars(owner)
    missing = object()
    before = attributes.get(name, missing)
    attributes[name] = value
    try:
        yield
    finally:
        if attributes.get(name) is value:
            if before is missing:
                del attributes[name]
            else:
                attributes[name] = before
