"""Runs hooks in forked children, whose parent keeps the open sinks and files."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from emoguard.errors import EmoGuardError

AFTER_FORK = (
    "it was opened before this process was forked: open the guard in each worker (with gunicorn "
    "without preload_app, or in post_fork)"
)


class ForkedError(EmoGuardError):
    """Raised when a sink or a file is used in another process than the one that opened it."""


def in_child(method: Callable[[], None]) -> None:
    """Call a bound method in every child that is forked from now on, while its object lives.

    It runs there before anything else: locks held by the parent's threads stay locked.
    """
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=call)
