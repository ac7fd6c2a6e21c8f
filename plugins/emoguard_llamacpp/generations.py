"""Opens a session around each generation of one `llama_cpp.Llama`: one row per token."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from llama_cpp.llama_chat_format import (
    LlamaChatCompletionHandlerNotFoundException,
    get_chat_completion_handler,
)

from emoguard.errors import EmoGuardError
from emoguard.records import Finish, Report, Request
from emoguard.runtime.attention import sink_length
from emoguard.runtime.call import called_through
from emoguard.runtime.interrupts import is_interrupt
from emoguard.runtime.joint import Sessions
from emoguard.runtime.patch import attribute
from emoguard.runtime.phases import Thinking
from emoguard.runtime.session import Session, take_request
from emoguard_llamacpp import ctypes_llama
from emoguard_llamacpp.calls import Call, Calls
from emoguard_llamacpp.head import Head
from emoguard_llamacpp.lock import Turn
from emoguard_llamacpp.prefix import Prefix
from emoguard_llamacpp.steer import Steer


@dataclass(frozen=True, eq=False)
class Start:
    """The start of a generation: its request, the tokens before it, the call it belongs to.

    `goes_on` if it continues from the cache (`reset=False`).
    """

    request: Request
    prompt_ids: list[int]
    call: Call | None
    goes_on: bool


class Generations:
    """Follows every generation of `llm` while its methods are wrapped.

    Sessions belong at `Llama.generate`: a server calls functions of the class, past anything that
    is put around `create_chat_completion` on the instance. `live` is the open session.
    """

    def __init__(self, llm: Any, head: Head, sessions: Sessions, thinking: Thinking | None) -> None:
        self.live: Session | None = None
        self._llm = llm
        self._head = head
        self._sessions = sessions
        self._thinking = thinking
        self._prefix = Prefix(llm)
        self._calls = Calls()
        self._turn = Turn()
        self._last = head.scores.missing
        self._attached = True

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Wrap the methods of the Llama in this block."""
        wrappers: dict[str, Callable[..., Any]] = {
            "eval": self._eval,
            "generate": self._generate,
            "_create_completion": functools.partial(self._calls.follow, self._end),
            "save_state": self._prefix.save_state,
            "create_completion": self._calls.carry,
            "create_chat_completion": self._calls.carry_chat,
        }
        with ExitStack() as undo:
            for name, wrapper in wrappers.items():
                wrapped = self._wrapped(getattr(self._llm, name), wrapper)
                undo.enter_context(attribute(self._llm, name, wrapped))
            undo.enter_context(attribute(self._llm, "_chat_handlers", self._chat_handlers()))
            undo.enter_context(called_through(self._llm, self._calls.carry))
            yield

    def let_go(self) -> None:
        """Stop reading: a generation in progress continues unread, and wrappers become inert.

        Waits for the pass that another thread computes, whose context may be about to be freed.
        """
        with self._turn.last():
            try:
                session = self.live
                if session is not None:
                    self.release(session)
                self._head.stop(keep_state=session is not None)
            finally:
                self._attached = False  # last: others wait here until they find this

    def cancel(self) -> None:
        """Close the live session, if any: another generation begins."""
        if self.live is not None:
            self._sessions.close(self.live, "cancelled")

    def release(self, session: Session) -> None:
        """Release a closed session; positions that it computed steered are never reused."""
        if session is self.live:
            self.live = None
            self._head.stop_steering()
            self._prefix.hide()

    def _wrapped(self, original: Callable[..., Any], wrapper: Callable[..., Any]) -> Any:
        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            function = functools.partial(wrapper, original) if self._attached else original
            return function(*args, **kwargs)

        return wrapped

    def _chat_handlers(self) -> dict[str, Any]:
        """Return chat handlers that mark a call as a chat: servers call the class's method."""
        handlers = dict(self._llm._chat_handlers)  # noqa: SLF001
        with suppress(LlamaChatCompletionHandlerNotFoundException):  # or one given by hand
            name = self._llm.chat_format
            handlers.setdefault(name, get_chat_completion_handler(name))
        follow = self._calls.answer_chat
        return {name: functools.partial(follow, each) for name, each in handlers.items()}

    def _eval(self, original: Callable[..., Any], tokens: Sequence[int]) -> None:
        with self._turn.taken():
            if self._attached:  # else it has waited for the detach
                self._evaluate(original, tokens)
            else:
                original(tokens)

    def _evaluate(self, original: Callable[..., Any], tokens: Sequence[int]) -> None:
        if not len(tokens):
            original(tokens)
            return
        reader = self._head.reader
        self._last = self._head.scores.missing
        with self._sessions.guarded(self.live):
            reader.before(len(tokens))
        if steer := self._head.steer:
            self._prepare(steer, tokens)
        start = self._llm.n_tokens
        try:
            # Pass by pass, as the original does: an interrupt does not wait for a long prompt.
            for at in range(0, len(tokens), self._llm.n_batch):
                original(tokens[at : at + self._llm.n_batch])
                reader.check()
        finally:
            with self._sessions.guarded(self.live):
                self._prefix.hide_late(start)
        with self._sessions.guarded(self.live):
            reader.after(len(tokens))

    def _prepare(self, steer: Steer, tokens: Sequence[int]) -> None:
        """Note the first position that a decode of `tokens` steers; spare its attention sinks."""
        start = self._llm.n_tokens
        if self.live is not None:
            whole = steer.steering.plan.prompt
            self._prefix.note(self.live, start if whole else start + len(tokens) - 1)
        before = self._llm.input_ids[:start]
        if (before == before[:1]).all():
            steer.spared = sink_length([*map(int, before), *tokens]) - start

    def _generate(
        self, original: Callable[..., Any], tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Any:
        call = self._calls.current
        request = call.request if call else take_request(kwargs)
        prompt = list(tokens)
        arguments = inspect.signature(original).bind(prompt, *args, **kwargs).arguments
        goes_on = not arguments.get("reset", True) and self._llm.n_tokens > 0
        if not prompt and not goes_on:
            raise EmoGuardError("the prompt is empty: give the model at least one token to go on")
        if self._sessions.steering(request.plan) is not None:
            self._head.check_callback(goes_on=goes_on)
            if self._head.path != "callback":
                with self._turn.taken():
                    if self._attached:
                        self.cancel()  # its cache is about to be dropped
                        self._head.read_through_callback()
        before = self._llm.input_ids[: self._llm.n_tokens] if goes_on else []
        start = Start(request, [*map(int, before), *prompt], call, goes_on)
        return self._started(original(prompt, *args, **kwargs), start)

    def _started(self, inner: Generator[int, Any, None], start: Start) -> Generator[int, Any, None]:
        """Open the session when the first token is asked for; after a detach, there is none."""
        with self._turn.taken():
            session = self._open(start) if self._attached else None
        yield from inner if session is None else self._tokens(inner, session, start.call)

    def _tokens(
        self, inner: Generator[int, Any, None], session: Session, call: Call | None
    ) -> Generator[int, Any, None]:
        """Yield the tokens of `inner`, one committed row per token; close the session at the end.

        Tokens that a completion call throws away (the end mark) are not committed.
        """
        finish: Finish = "error"
        sent = None
        try:
            while True:
                with self._turn.taken():
                    token = inner.send(sent)
                    ends = ctypes_llama.is_end(self._llm, token)
                    if not (ends and call):
                        self._commit(session, token)
                finish = "stop" if ends else "unknown"
                sent = yield token
                if sent is not None:
                    session.skipped = "tokens were sent into generate"
                if session.halted:
                    finish = "halted"
                    yield from self._end_mark(call)
                    return
                finish = "error"
        except StopIteration:
            finish = "stop"
        except GeneratorExit:
            # Callers of generate have no other way to end it: a cut-off cannot be told from an end.
            finish = "stop" if finish == "stop" else "unknown"
            raise
        except BaseException as error:
            if is_interrupt(error):
                finish = "cancelled"
            else:
                session.fail(error)
            raise
        finally:
            inner.close()
            # A completion still reads the scores and ids of its tokens: it ends the session itself.
            if call is None or finish in ("error", "cancelled"):
                self._end(session, finish)

    def _end_mark(self, call: Call | None) -> Iterator[int]:
        """Yield an end mark to a completion: without a stream it needs one to return its text."""
        mark = self._llm.token_eos()
        if call is not None and mark >= 0:
            yield mark

    def _open(self, start: Start) -> Session:
        """Open the one live session; the one before, if it is still open, was broken off."""
        self.cancel()
        self._prefix.drop(self._prefix.owner)
        session = self._sessions.open(start.request, start.prompt_ids)
        session.thinking = self._thinking_in(start.call)
        if self._llm.draft_model is not None:
            session.skipped = "a draft model was set after attach"
        if start.call:
            start.call.session = session
        self.live = session
        if session.steering is not None:
            self._head.start_steering(session.steering)
            # The last prompt token is computed again, under steering, even if the cache has it, and
            # so is a steered prompt. A generation that continues computes all its tokens.
            kept = 0 if session.steering.plan.prompt else len(start.prompt_ids) - 1
            if not start.goes_on:
                self._llm.n_tokens = min(self._llm.n_tokens, kept)
        return session

    def _thinking_in(self, call: Call | None) -> Thinking | None:
        """Return the marks of reasoning: a caller with a whole prompt may end it in one."""
        if self._thinking is None or (call and call.chat):
            return self._thinking
        return self._thinking._replace(opens_prompts=True)

    def _commit(self, session: Session, token: int) -> None:
        """Keep the row `token` was chosen from, and the move of that residual."""
        if session is not self.live:
            return
        start = time.perf_counter()
        with self._sessions.guarded(session):
            self._last = self._row(session)
        if session.fault:
            self._last = self._head.scores.missing
        steer = self._head.steer
        if steer is not None and steer.fault is not None and session.steering_fault is None:
            self._sessions.fail(session, steer.fault, "steering")
        if session.alarm is not None:
            self._head.scores.settle()
        self._sessions.commit(session, token, self._last, steer.take() if steer else None)
        session.seconds += time.perf_counter() - start

    def _row(self, session: Session) -> Any:
        """Return the row of the last decode; without a decode since the last one it is NaN.

        The first token of a prompt that is still in the cache is chosen without any decode: its row
        is the last one read.
        """
        scores, reader = self._head.scores, self._head.reader
        if session.fault:
            return scores.missing
        if reader.take():
            return scores.add(reader.rows)
        return scores.missing if session.rows else self._last

    def _end(self, session: Session | None, finish: Finish) -> Report | None:
        """Close a session whose generation is over; no position that it computed steered stays."""
        if session is None:
            return None
        try:
            if self._prefix.owner is session:
                with self._sessions.guarded(session), self._turn.taken():
                    self._prefix.drop(session)
        finally:
            report = self._sessions.close(session, finish)
        return report
