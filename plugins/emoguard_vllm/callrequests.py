"""`emoguard=` in calls of `LLM.generate` and `LLM.chat`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.records import Request
from emoguard.runtime.patch import attribute
from emoguard.runtime.session import take_request

CALLS = {"generate": ("prompts", int), "chat": ("messages", dict)}
"""The argument with the prompts of each call, and the parts of one prompt that is a list."""


class CallRequests:
    """The requests that a call of `model` carries, handed to its prompts in order."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._local = threading.local()

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Have the calls take `emoguard=`: one Request, or a list with one for each prompt."""
        with ExitStack() as undo:
            for name, (argument, part) in CALLS.items():
                # An AsyncLLM has no such calls that end before their requests do.
                plain = getattr(self._model, name, None)
                if plain is not None and hasattr(self._model, "llm_engine"):
                    undo.enter_context(
                        attribute(self._model, name, self._taking(plain, argument, part))
                    )
            yield

    def next(self) -> Request | None:
        """Return the request of the next prompt of this thread's call, or None."""
        waiting: deque[Request] | None = getattr(self._local, "waiting", None)
        if not waiting:
            return None
        return waiting.popleft() if len(waiting) > 1 or self._local.each else waiting[0]

    def _taking(self, plain: Callable[..., Any], argument: str, part: type) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            value = kwargs.get("emoguard")
            if value is None:
                return plain(*args, **kwargs)
            each = isinstance(value, list | tuple)
            kwargs.pop("emoguard")
            requests = [take_request({"emoguard": one}) for one in (value if each else [value])]
            if each:
                _check(requests, args[0] if args else kwargs.get(argument, ()), part)
            self._local.waiting, self._local.each = deque(requests), each
            try:
                return plain(*args, **kwargs)
            finally:
                self._local.waiting = None

        return call


def _check(requests: Sequence[Request], prompts: Any, part: type) -> None:
    """Raise unless there is a request for each prompt; vLLM tells one from several in this way."""
    is_one = isinstance(prompts, dict | str | bytes) or (
        len(prompts) > 0 and all(isinstance(each, part) for each in prompts)
    )
    count = 1 if is_one else len(prompts)
    if len(requests) != count:
        raise EmoGuardError(
            f"emoguard= must be one Request or one for each of {count} prompts, got {len(requests)}"
        )
