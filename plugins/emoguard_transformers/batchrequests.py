"""Keeps EmoGuard's requests of a continuous batch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.records import Request
from emoguard.runtime.joint import Sessions
from emoguard.runtime.session import REQUEST
from emoguard_transformers.requests import numbered, take_requests


class BatchRequests:
    """The requests of the prompts of one call, which a manager may take in another order.

    `error` is the first error while they were taken in: `generate_batch` would only log it.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._left: dict[tuple[int, ...], deque[Request | None]] = defaultdict(deque)

    @classmethod
    def of(
        cls, prompts: Sequence[Any], requests: Request | Sequence[Request] | None
    ) -> BatchRequests:
        """Give each prompt its request; without any, ids will be those of the batch.

        Raises:
            EmoGuardError: another number of requests than of prompts.

        """
        each: Sequence[Request | None]
        if requests is None:
            each = [None] * len(prompts)
        elif isinstance(requests, Request):
            each = numbered(requests, len(prompts))
        elif len(requests) != len(prompts):
            raise EmoGuardError(
                f"emoguard= must be one Request or one for each of {len(prompts)} prompts, "
                f"got {len(requests)}"
            )
        else:
            each = requests
        group = cls()
        for prompt, request in zip(prompts, each, strict=True):
            group._left[tuple(map(int, prompt))].append(request)
        return group

    def take(self, prompt: Sequence[int]) -> Request | None:
        """Return the request of the next of equal prompts, or None."""
        left = self._left[tuple(prompt)]
        return left.popleft() if left else None

    def check(self, sessions: Sessions) -> None:
        """Raise if any plan would be refused, before any prompt is taken in."""
        for requests in self._left.values():
            for request in requests:
                if request is not None and request.plan is not None:
                    sessions.steering(request.plan)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Remember the first error of these blocks."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or error
            raise


def take_batch_requests(kwargs: dict[str, Any]) -> Any:
    """Take `emoguard=` out of a call: one Request, several, or None."""
    if isinstance(kwargs.get("emoguard"), BatchRequests):
        return kwargs.pop("emoguard")
    if kwargs.get("emoguard") is None and REQUEST.get() is None:
        kwargs.pop("emoguard", None)
        return None
    return take_requests(kwargs)
