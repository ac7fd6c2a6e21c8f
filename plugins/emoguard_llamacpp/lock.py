"""Allows one generation of a `Llama` at a time: a lock for callers, and an error without it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emoguard.errors import EmoGuardError

LOCK = "_emoguard_lock"
"""Instance attribute of a Llama: its lock."""

TWO_THREADS = (
    "another thread is generating with this Llama, and llama.cpp runs one generation at a time: "
    "hold emoguard_llamacpp.lock(llm) for the whole of each response"
)


def lock(llm: Any) -> threading.Lock:
    """Return the lock of a `Llama`, one for each, whether or not it is watched.

    Two threads that generate with one `Llama` end the process in llama.cpp. Hold this from before a
    call until its response is whole, also one that is streamed:

        with emoguard_llamacpp.lock(llm):
            for chunk in llm.create_chat_completion(messages, stream=True):
                ...

    Another thread may release it, as servers resume generators in any. It is not re-entrant.
    """
    shared: threading.Lock = vars(llm).setdefault(LOCK, threading.Lock())
    return shared


class Turn:
    """Refuses a second thread while one is inside, before llama.cpp aborts the process."""

    def __init__(self) -> None:
        self._inside = threading.RLock()
        self._ends = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the place of the one thread in this block; wait for a thread that detaches.

        Raises:
            EmoGuardError: another thread holds it.

        """
        if not self._inside.acquire(blocking=False):
            if not self._ends:
                raise EmoGuardError(TWO_THREADS)
            self._inside.acquire()
        try:
            yield
        finally:
            self._inside.release()

    @contextmanager
    def last(self) -> Iterator[None]:
        """Wait for the thread inside, and hold its place in this block: the watch ends."""
        self._ends = True  # before the lock: a thread refused by it finds this
        with self._inside:
            yield
