"""Watches a `llama_cpp.Llama`: wraps `generate` on the instance, one session per generation."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from llama_cpp.llama_chat_format import (
    Jinja2ChatFormatter,
    LlamaChatCompletionHandlerNotFoundException,
    get_chat_completion_handler,
)

from emoguard.attention import sink_length
from emoguard.call import called_through
from emoguard.errors import EmoGuardError
from emoguard.interrupts import is_interrupt
from emoguard.live import LiveAlarm
from emoguard.phases import THINKING_MARKS, Thinking
from emoguard.plan import Plan
from emoguard.records import Finish, Reading, Report, check_name
from emoguard.session import Session, take_request
from emoguard.standing import Standing
from emoguard.template import opens_reasoning
from emoguard_llamacpp import ctypes_llama, support
from emoguard_llamacpp.calls import Call, Calls
from emoguard_llamacpp.reader import CallbackReader, Reader
from emoguard_llamacpp.scores import Scores
from emoguard_llamacpp.steer import Steer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.guard import Guard
    from emoguard.identity import ModelIdentity
    from emoguard.steering import Steering

log = logging.getLogger("emoguard")

MARK = "_emoguard_watch"
"""Instance attribute that says a Llama is watched."""


NO_TOKEN = -1
"""An id that no prompt has."""


class LlamaWatch:
    """The handle `attach` returns for a `llama_cpp.Llama`."""

    def __init__(
        self, llm: Any, guard: Guard, identity: ModelIdentity, reader: Reader, backend: str
    ) -> None:
        guard.steering(None, identity)  # a standing plan that cannot be is refused here
        self.guard = guard
        self.reports: deque[Report] = deque(maxlen=guard.policy.keep_reports)
        self.reader = reader
        self._llm = llm
        self.identity = identity
        self._scores = Scores(guard.readout(identity))
        self._thinking = find_thinking(llm)
        self._last = self._scores.missing
        self._session: Session | None = None
        self._closing = threading.RLock()
        self._calls = Calls(self.reports)
        self._backend = backend
        self._standing = Standing()
        self._steered: tuple[Session, int] | None = None
        self._alarm: LiveAlarm | None = None
        self._undo = ExitStack()
        self._attached = False
        self._logged: set[str] = set()

    @property
    def backend(self) -> str:
        """Return the runtime and the path that is read on."""
        return f"llama_cpp:{self.reader.name}"

    def attach(self) -> None:
        """Start reading, check the witness, wrap the model; on an error nothing stays."""
        witness = self.guard.probe.witness
        try:
            with ExitStack() as undo:
                self.reader.start(witness.token_ids.tolist())
                undo.callback(self._stop_reading)
                witness.check(self, self.guard.probe.layers)
                undo.callback(self.guard.serve(self.identity, self._refuse))
                undo.enter_context(self._instance_attribute(MARK, self))
                for name, wrapper in self._wrappers():
                    undo.enter_context(self._wrapped(name, wrapper))
                undo.enter_context(self._chat_handlers_followed())
                undo.enter_context(called_through(self._llm, self._calls.carry))
                self._undo = undo.pop_all()
        finally:
            self._forget()
        self._attached = True

    def _wrappers(self) -> tuple[tuple[str, Callable[..., Any]], ...]:
        return (
            ("eval", self._eval),
            ("generate", self._generate),
            ("_create_completion", functools.partial(self._calls.follow, self._end)),
            ("save_state", self._save_state),
            ("create_completion", self._calls.carry),
            ("create_chat_completion", self._calls.carry_chat),
        )

    def detach(self) -> None:
        """Take everything away again; an open session is closed as cancelled. Idempotent."""
        if not self._attached:
            return
        self._attached = False
        try:
            self._undo.close()
        finally:
            self._close(self._session, "cancelled")

    def steering(self, plan: Plan | Mapping[str, Any]) -> AbstractContextManager[None]:
        """Steer every generation that starts in this `with` block by `plan`.

        `plan` is a Plan, or a mapping with its keys. It is laid over the policy's plan, and a
        request's own is laid over it. Blocks may overlap, also those of other threads: each one's
        plan holds until that block ends.

        Raises:
            EmoGuardError: a plan that this probe, model or policy does not allow.

        """
        return self._standing.during(plan, self.check_plan)

    def check_plan(self, plan: Plan | Mapping[str, Any] | None) -> None:
        """Refuse what a generation that starts now would refuse, too.

        Raises:
            EmoGuardError: a plan that this probe, model, policy or read path does not allow.

        """
        self._steering(None if plan is None else Plan.parse(plan))

    def abandon(self, request_id: str) -> None:
        """Close the session of a request that nobody goes on with, as cancelled."""
        request_id = check_name("request_id", request_id)
        session = self._session
        if session is not None and session.request.id == request_id:
            self._close(session, "cancelled")
        self.guard.ledger.leave(request_id)

    def live(self) -> Reading | None:
        """Return what the open session has read so far, None when none is open."""
        session = self._session
        if session is None:
            return None
        self._guarded(self._scores.settle)
        tokens = len(session.token_ids)
        snapshot = replace(
            session, rows=session.rows[:tokens], token_ids=session.token_ids[:tokens]
        )
        return snapshot.reading("unknown", len(self.guard.labels))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    # The witness check runs through the live context: the watch itself is the door it uses.

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids of `text`, with BOS where the model uses one."""
        bos = special and self._llm._model.add_bos_token()  # noqa: SLF001
        return list(self._llm.tokenize(text.encode(), add_bos=bos, special=True))

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return what the reader sees on `token_ids`, float32 (layers, tokens, hidden)."""
        self._llm.reset()
        batch = self._llm.n_batch
        chunks = [token_ids[i : i + batch] for i in range(0, len(token_ids), batch)]
        return np.concatenate([self.reader.capture(chunk) for chunk in chunks], axis=1)

    def _forget(self) -> None:
        """Leave the model as after `reset`, with an empty cache and nothing pending."""
        self._llm.reset()
        self._llm._ctx.kv_cache_clear()  # noqa: SLF001
        self.reader.before(0)

    def _stop_reading(self) -> None:
        if self._llm.ctx is None:  # the model was closed first: its context is gone
            return
        # A generation in progress needs its cache: it goes on, unread.
        self.reader.stop(keep_state=self._session is not None)

    @contextmanager
    def _instance_attribute(self, name: str, value: Any) -> Iterator[None]:
        """Set an instance attribute; afterwards put back what was there, if ours is still there."""
        attributes = vars(self._llm)
        before = attributes.get(name, self)
        attributes[name] = value
        try:
            yield
        finally:
            if attributes.get(name) is value:
                del attributes[name]
                if before is not self:
                    attributes[name] = before

    def _wrapped(self, name: str, wrapper: Callable[..., Any]) -> Any:
        original = getattr(self._llm, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            # Somebody may still hold this function after a detach.
            function = functools.partial(wrapper, original) if self._attached else original
            return function(*args, **kwargs)

        return self._instance_attribute(name, wrapped)

    def _chat_handlers_followed(self) -> Any:
        """Hear of every chat: a server calls the class's create_chat_completion, past a wrapper."""
        handlers = dict(self._llm._chat_handlers)  # noqa: SLF001
        with suppress(LlamaChatCompletionHandlerNotFoundException):  # or one given by hand
            name = self._llm.chat_format
            handlers.setdefault(name, get_chat_completion_handler(name))
        follow = self._calls.answer_chat
        followed = {name: functools.partial(follow, each) for name, each in handlers.items()}
        return self._instance_attribute("_chat_handlers", followed)

    def _eval(self, original: Callable[..., Any], tokens: Sequence[int]) -> None:
        if not len(tokens):
            original(tokens)
            return
        self._last = self._scores.missing
        self._guarded(self.reader.before, len(tokens))
        self._note_steered(len(tokens))
        self._spare_sinks(tokens)
        start = self._llm.n_tokens
        try:
            # Pass by pass, as the original does: an interrupt does not wait for a long prompt.
            for at in range(0, len(tokens), self._llm.n_batch):
                original(tokens[at : at + self._llm.n_batch])
                self.reader.check()
        finally:
            self._hide_late(start)
        self._guarded(self.reader.after, len(tokens))

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
        steering = self._steering(request.plan)
        if steering is not None:
            self._read_through_callback(goes_on=goes_on)
        before = self._llm.input_ids[: self._llm.n_tokens] if goes_on else []
        session = Session(
            request,
            self.identity,
            self.backend,
            [*map(int, before), *prompt],
            self._thinking_in(call),
            steering=steering,
            decode=self._decode,
        )
        inner = original(prompt, *args, **kwargs)
        return self._tokens(inner, session, call, goes_on=goes_on)

    def _thinking_in(self, call: Call | None) -> Thinking | None:
        """Return the marks of reasoning: who calls with a whole prompt may end it in one."""
        if self._thinking is None or (call and call.chat):
            return self._thinking
        return self._thinking._replace(opens_prompts=True)

    def _tokens(
        self,
        inner: Generator[int, Any, None],
        session: Session,
        call: Call | None,
        *,
        goes_on: bool,
    ) -> Generator[int, Any, None]:
        """Yield the tokens of `inner`, one committed row per token; close the session at the end.

        Tokens that a completion call throws away (the end mark) are not committed.
        """
        finish: Finish = "error"
        sent = None
        try:
            self._open(session, call, goes_on=goes_on)
            while True:
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
            # A caller of generate has no other way to end it: whether it was cut off is unknown.
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
            # A completion still looks at the scores and ids of its tokens: it ends the session.
            if call is None or finish in ("error", "cancelled"):
                self._end(session, finish)

    def _end_mark(self, call: Call | None) -> Iterator[int]:
        """Yield an end mark to a completion: only then one that is not streamed has its text."""
        mark = self._llm.token_eos()
        if call is not None and mark >= 0:
            yield mark

    def _open(self, session: Session, call: Call | None, *, goes_on: bool) -> None:
        self._close(self._session, "cancelled")
        self._drop_steered(self._steered[0] if self._steered else session)
        if self._llm.draft_model is not None:
            session.skipped = "a draft model was set after attach"
        if call:
            call.session = session
        self._session = session
        self._alarm = LiveAlarm.make(
            self.guard, self.identity, session.request, session.prompt_ids, session.thinking
        )
        if session.steering is not None and isinstance(self.reader, CallbackReader):
            self.reader.steer = Steer(session.steering, self.identity.hidden)
            # The last prompt token is computed again, under steering, even where the cache has it,
            # and so is all of the prompt where that is steered. What goes on computes all it gets.
            kept = 0 if session.steering.plan.prompt else len(session.prompt_ids) - 1
            self._llm.n_tokens = self._llm.n_tokens if goes_on else min(self._llm.n_tokens, kept)

    def _commit(self, session: Session, token: int) -> None:
        """Keep the row `token` was chosen from; without a decode since the last one it is NaN.

        The first token of a prompt that is still in the cache is chosen without any decode: its row
        is the last one read.
        """
        if session is not self._session:
            return
        start = time.perf_counter()
        self._commit_move(session)
        try:
            if session.fault:
                self._last = self._scores.missing
            elif self.reader.take():
                self._last = self._scores.add(self.reader.rows)
            elif session.rows:
                self._last = self._scores.missing
            session.commit(token, self._last)
            self._follow_live(session, token)
        except Exception as error:  # the response goes on, whatever breaks here
            if is_interrupt(error):
                raise
            self._fail(error)
            tokens = len(session.token_ids)
            session.rows[tokens:] = [self._scores.missing]
            session.token_ids.append(token)
        session.seconds += time.perf_counter() - start

    def _follow_live(self, session: Session, token: int) -> None:
        """End the generation where a label crosses its threshold and the policy says so."""
        if self._alarm is not None and not session.fault:
            self._scores.settle()
            session.halted = session.halted or self._alarm.update(token, self._last)

    def _commit_move(self, session: Session) -> None:
        """Keep what steering did to the residual that the token just chosen was chosen from."""
        steer = self._steer
        if steer is None:
            return
        session.moves.append(steer.take())
        if steer.fault is not None and session.steering_fault is None:
            session.fail_steering(steer.fault)
            if self.guard.policy.steering.on_fault == "stop":
                session.halted = f"steering broke ({session.steering_fault}): the policy says stop"
            self._log_once("steering failed, what follows is not steered", steer.fault)

    @property
    def _steer(self) -> Steer | None:
        return self.reader.steer if isinstance(self.reader, CallbackReader) else None

    def _steering(self, plan: Plan | None) -> Steering | None:
        """Return what a request's plan comes to here; refuse one that cannot be."""
        standing = self._standing.plan()
        laid = plan.over(standing) if plan is not None else standing
        steering = self.guard.steering(laid, self.identity)
        if steering is not None:
            self._refuse(steering)
        return steering

    def _refuse(self, steering: Steering) -> None:
        """Refuse what cannot be steered in llama.cpp, or on the path that was asked for."""
        if self._llm.draft_model is not None:
            raise EmoGuardError("speculative decoding cannot be steered: unset draft_model")
        if steering.layers[0] == 0:
            raise EmoGuardError(
                "llama.cpp cannot steer layer 0: leave it out of plan.layers, or fit a probe at "
                "layers from 1 on"
            )
        if steering.plan.prompt and support.takes_media(self._llm):
            raise EmoGuardError(
                "this Llama's chat handler computes images and sound before there is a plan: leave "
                "prompt: true out of it"
            )
        if self._backend == "native":
            raise EmoGuardError(
                'the native read cannot steer: attach with backend="auto" or "callback"'
            )

    def _read_through_callback(self, *, goes_on: bool) -> None:
        """Change from the native read to the callback, which can steer; the cache is lost.

        Raises:
            EmoGuardError: the callback cannot be had, or the generation needs the cache.

        """
        if isinstance(self.reader, CallbackReader):
            return
        if goes_on or support.takes_media(self._llm):
            raise EmoGuardError(
                "the first plan of a watch drops the cache, and reset=False or a chat handler for "
                'images and sound goes on from it: attach with backend="callback"'
            )
        self._close(self._session, "cancelled")
        reader = CallbackReader(self._llm, self.guard.probe.layers, self.identity.hidden)
        reader.start(self.guard.probe.witness.token_ids.tolist())
        self.reader = reader
        self._forget()

    def _note_steered(self, tokens: int) -> None:
        """Remember the first position that is computed under steering."""
        steer = self._steer
        if steer is not None and self._steered is None and self._session is not None:
            last = self._llm.n_tokens + tokens - 1
            first = self._llm.n_tokens if steer.steering.plan.prompt else last
            self._steered = self._session, first

    def _spare_sinks(self, tokens: Sequence[int]) -> None:
        """Have steering leave the attention sinks among `tokens` alone, which are decoded next."""
        steer = self._steer
        if steer is not None:
            before = self._llm.input_ids[: self._llm.n_tokens]
            if (before == before[:1]).all():
                whole = [*map(int, before), *tokens]
                steer.spared = sink_length(whole) - len(before)

    def _drop_steered(self, session: Session | None) -> None:
        """Forget every position `session` computed steered: none may be the prefix of another turn.

        Done when its generation is over, in its own thread: one that goes on unwatched needs them.
        """
        if self._steered is None or self._steered[0] is not session:
            return
        first = self._steered[1]
        if self._llm.ctx is not None and self._llm.n_tokens > first:
            taken = session.closed and self._llm.input_ids[first] != NO_TOKEN
            if not taken:
                self._cut(first)
        self._steered = None

    def _cut(self, first: int) -> None:
        """Forget every position from `first` on."""
        self._llm.n_tokens = first
        # A prompt that ends just there would be sampled from the logits of what was cut off.
        self._llm._requires_eval = True  # noqa: SLF001
        if not self._llm._ctx.kv_cache_seq_rm(-1, first, -1):  # noqa: SLF001
            # A recurrent state cannot be cut: all of it goes.
            self._llm.reset()
            self._llm._ctx.kv_cache_clear()  # noqa: SLF001

    def _hide_steered(self) -> None:
        """Have no prompt find them as its prefix while their generation, closed here, goes on."""
        if self._steered is not None:
            self._llm.input_ids[self._steered[1] : self._llm.n_tokens] = NO_TOKEN

    def _hide_late(self, start: int) -> None:
        """Hide what a decode from `start` on wrote of a generation that was closed meanwhile."""
        if self._steered is not None and self._steered[0].closed and start <= self._steered[1]:
            self._guarded(self._hide_steered)

    def _save_state(self, original: Callable[[], Any]) -> Any:
        """Save the state as far as it is unsteered: whoever loads it computes the rest again."""
        state = original()
        if self._steered is not None:
            state.n_tokens = min(state.n_tokens, self._steered[1])
            state.scores = state.scores[: state.n_tokens]
        return state

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: bytes = self._llm.detokenize(list(token_ids))
        return text.decode("utf-8", "replace")

    def _end(self, session: Session | None, finish: Finish) -> None:
        """Close a session whose generation is over; nothing that it computed steered stays."""
        try:
            self._guarded(self._drop_steered, session)
        finally:
            self._close(session, finish)

    def _close(self, session: Session | None, finish: Finish) -> None:
        """Report an open session; one that was closed before stays closed.

        Whoever collects a generator that nobody went on with closes its session, too, in any thread
        and at any moment, also within this.
        """
        with self._closing:
            if session is None or session is not self._session or session.closed:
                return
            session.closed = True
            self._close_open(session, finish)

    def _close_open(self, session: Session, finish: Finish) -> None:
        start = time.perf_counter()
        if isinstance(self.reader, CallbackReader):
            self.reader.steer = None
        self._guarded(self._hide_steered)
        self._guarded(self._scores.settle)
        session.seconds += time.perf_counter() - start
        try:
            self.reports.append(session.close(self.guard, finish))
        except Exception as error:
            if is_interrupt(error):
                raise
            self._fail(error)
            session.rows = [self._scores.missing] * len(session.token_ids)
            with suppress(Exception):
                self.reports.append(session.close(self.guard, finish))
        finally:
            self._session = None

    def _guarded(self, action: Callable[..., None], *args: Any) -> None:
        try:
            action(*args)
        except Exception as error:
            if is_interrupt(error):
                raise
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._session is not None:
            self._session.fail(error)
        self._log_once("reading failed, the response goes on", error)

    def _log_once(self, message: str, error: Exception) -> None:
        if message not in self._logged:
            self._logged.add(message)
            log.error("%s (logged once): %r", message, error)


def find_thinking(llm: Any) -> Thinking | None:
    """Return the marks around reasoning in chats, None where the vocabulary has none."""
    for pair in THINKING_MARKS:
        opening, closing = (
            llm.tokenize(mark.encode(), add_bos=False, special=True) for mark in pair
        )
        if len(opening) == len(closing) == 1:
            opens = opens_reasoning(_renderer(llm), pair[0])
            return Thinking(int(opening[0]), int(closing[0]), opens, functools.cache(_blank(llm)))
    return None


def _renderer(llm: Any) -> Callable[..., str]:
    """Return what the file's own chat template makes of messages; it fails without one."""

    def render(messages: list[Any], **switches: Any) -> str:
        template = llm.metadata["tokenizer.chat_template"]
        return Jinja2ChatFormatter(template, "", "")(messages=messages, **switches).prompt

    return render


def _blank(llm: Any) -> Callable[[int], bool]:
    return lambda token: not llm.detokenize([token], special=True).strip()
