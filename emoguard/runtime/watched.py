"""Describes a watched model to type checkers: calls that generate also take `emoguard=`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypedDict

from emoguard.records import Request


class Options(TypedDict, total=False):
    """Options of `attach`, `watch` and `score` that go to the plug-in; each plug-in has its own."""

    tokenizer: Any
    """The model's tokenizer, where the model does not bring its own."""
    backend: Literal["auto", "native", "callback"]
    """The read path, where a runtime has several."""
    loop: Any
    """The event loop that an asynchronous engine runs in."""


class Watched(Protocol):
    """The calls of a watched model that take a request; a runtime has some of them.

    A request is of one response. Batches also take one per sequence.
    """

    def __call__(self, *args: Any, emoguard: Request | None = None, **kwargs: Any) -> Any:
        """Complete a prompt."""
        ...

    def create_completion(self, *args: Any, emoguard: Request | None = None, **kwargs: Any) -> Any:
        """Complete a prompt."""
        ...

    def create_chat_completion(
        self, *args: Any, emoguard: Request | None = None, **kwargs: Any
    ) -> Any:
        """Answer a chat."""
        ...

    def generate(
        self, *args: Any, emoguard: Request | Sequence[Request] | None = None, **kwargs: Any
    ) -> Any:
        """Generate from token ids, a batch of them where the runtime takes one."""
        ...

    def generate_batch(
        self, *args: Any, emoguard: Request | Sequence[Request] | None = None, **kwargs: Any
    ) -> Any:
        """Generate from many prompts in a continuous batch."""
        ...

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the model."""
        ...
