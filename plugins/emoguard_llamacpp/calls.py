"""Passes requests from calls of a `llama_cpp.Llama` to their generations, and reports back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from emoguard import wire
from emoguard.records import Finish, Report, Request
from emoguard.runtime.interrupts import is_interrupt
from emoguard.runtime.session import Session, take_request

Close = Callable[["Session | None", Finish], "Report | None"]
"""Ends a session and returns its report; None for one that was ended before."""


@dataclass(eq=False)
class Call:
    """One call: its request before the generation starts, its finish after.

    `session` is the session that a completion's generation opened. A chat is a call around one or
    several completions; `reports` are those of all. The prompt of a completion for a `chat` was
    written by a chat template.
    """

    request: Request
    chat: bool = False
    session: Session | None = None
    reports: list[Report] = field(default_factory=list)

    def tell(self, result: Any) -> None:
        """Put the `emoguard` object into the caller's result, unless a server carries it."""
        if self.request.carrier == "process" and self.reports and isinstance(result, dict):
            wanted = self.request.scores
            result[wire.KEY] = wire.response_object(
                self.reports, "none" if wanted == "summary" else wanted
            )


class Calls:
    """Follows the calls of one Llama, which call each other.

    `current` is the completion that is generating.
    """

    def __init__(self) -> None:
        self.current: Call | None = None
        self._outer: Call | None = None
        self._chatting = False

    def carry(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Carry the request of a completion."""
        return self._carried(original, args, kwargs, None)

    def carry_chat(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Carry the request of a chat, whose user may have asked for a human."""
        messages = kwargs.get("messages", args[0] if args else None)
        return self._carried(original, args, kwargs, wire.user_text(messages))

    def answer_chat(self, handler: Callable[..., Any], **kwargs: Any) -> Any:
        """Let a chat handler make its completions, which it starts before it returns."""
        before, self._chatting = self._chatting, True
        try:
            return handler(**kwargs)
        finally:
            self._chatting = before

    def follow(
        self, close: Close, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Iterator[Any]:
        """Make a completion; `close` its session, so that it is reported before the last chunk."""
        if self._outer is not None:
            call = Call(self._outer.request, self._chatting, reports=self._outer.reports)
        else:
            call = Call(take_request({}), self._chatting)
        return self._follow(original(*args, **kwargs), call, close)

    def _follow(
        self, chunks: Generator[Any, None, None], call: Call, close: Close
    ) -> Iterator[Any]:
        try:
            while True:
                outer, self.current = self.current, call
                try:
                    chunk = next(chunks)
                finally:
                    self.current = outer
                finish = find_finish(chunk)
                if finish is not None:
                    if call.session is not None and call.session.halted:
                        finish, chunk["choices"][0]["finish_reason"] = "halted", wire.HALTED
                    report = close(call.session, finish)
                    if report is not None:
                        call.reports.append(report)
                    call.tell(chunk)
                yield chunk
        except StopIteration:
            return
        except Exception as error:
            if call.session is not None and not is_interrupt(error):
                call.session.fail(error)
                close(call.session, "error")
            raise
        finally:
            chunks.close()
            close(call.session, "cancelled")

    def _carried(
        self,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        user_text: str | None,
    ) -> Any:
        """Take `emoguard=` off a call and hold it for the generations the call starts."""
        if "emoguard" not in kwargs and self._outer is not None:
            return original(*args, **kwargs)
        request = take_request(kwargs)
        if request.user_text is None:
            request = replace(request, user_text=user_text)
        call = Call(request)
        result = self._holding(call, lambda: original(*args, **kwargs))
        if isinstance(result, Generator):
            return self._lazily(result, call)
        call.tell(result)
        return result

    def _lazily(self, chunks: Generator[Any, None, None], call: Call) -> Iterator[Any]:
        end = object()
        try:
            while (chunk := self._holding(call, lambda: next(chunks, end))) is not end:
                if find_finish(chunk) is not None:
                    call.tell(chunk)
                yield chunk
        finally:
            chunks.close()

    def _holding(self, call: Call, action: Callable[[], Any]) -> Any:
        outer, self._outer = self._outer, call
        try:
            return action()
        finally:
            self._outer = outer


def find_finish(chunk: Any) -> Finish | None:
    """Return the finish reason of a completion; None for a chunk that is not the last."""
    try:
        reason = chunk["choices"][0]["finish_reason"]
    except (KeyError, IndexError, TypeError):
        return None
    known: dict[Any, Finish | None] = {None: None, "stop": "stop", "length": "length"}
    return known.get(reason, "unknown")
