"""`emoguard=` in calls of `LLM.generate` and `LLM.chat`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from emoguard.records import Request
from emoguard.runtime.patch import attribute
from emoguard.runtime.session import take_request

CALLS = ("generate", "chat")


class CallRequests:
    """The requests that a call of `model` carries, handed to its prompts in order."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._local = threading.local()

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Have the calls take `emoguard=`: one Request, or a list with one for each prompt."""
        with ExitStack() as undo:
            for name in CALLS:
                # An AsyncLLM has no such calls that end before their requests do.
                plain = getattr(self._model, name, None)
                if plain is not None and hasattr(self._model, "llm_engine"):
                    undo.enter_context(attribute(self._model, name, self._taking(plain)))
            yield

    def next(self) -> Request | None:
        """Return the request of the next prompt of this thread's call, or None."""
        waiting: deque[Request] | None = getattr(self._local, "waiting", None)
        if not waiting:
            return None
        return waiting.popleft() if len(waiting) > 1 or self._local.each else waiting[0]

    def _taking(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            value = kwargs.get("emoguard")
            if value is None:
                return plain(*args, **kwargs)
            each = isinstance(value, list | tuple)
            kwargs.pop("emoguard")
            requests = [take_request({"emoguard": one}) for one in (value if each else [value])]
            self._local.waiting, self._local.each = deque(requests), each
            try:
                return plain(*args, **kwargs)
            finally:
                self._local.waiting = None

        return call
