"""The front end of one engine: opens sessions where requests enter, closes them where they end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from emoguard_torch.steer import MOVES
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine import FinishReason

from emoguard import wire as client
from emoguard.errors import EmoGuardError
from emoguard.jsontext import parse
from emoguard.policy import schema
from emoguard.probe.identity import ModelIdentity
from emoguard.records import Finish, Report, Request
from emoguard.runtime.attention import sink_length
from emoguard.runtime.joint import Sessions
from emoguard.runtime.patch import attribute
from emoguard.runtime.session import REQUEST, Session
from emoguard_vllm import outputs
from emoguard_vllm.engine import DOOR, Engine
from emoguard_vllm.settings import KEY
from emoguard_vllm.slots import Slots
from emoguard_vllm.wire import Carried, Order

FINISHES: Mapping[FinishReason, Finish] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORT: "cancelled",
    FinishReason.ERROR: "error",
}

REMEMBERED = 4096
"""Calls remembered to number their responses: prompts of one call arrive close together."""


class RefusedError(EmoGuardError, VLLMValidationError):
    """Raised for a request that cannot be served as sent: vLLM's servers answer it with 400."""


class BrokenError(RuntimeError):
    """An error in a worker, as text."""


@dataclass(eq=False)
class Open:
    """One sequence in the engine: its session, the plan it holds a slot for, its choice's number.

    `call` is the id that all choices of one request share.
    """

    session: Session
    call: str
    choice: int
    slot: str = ""


class Front:
    """Follows the sequences of `engine` while it is wrapped."""

    def __init__(
        self,
        engine: Engine,
        sessions: Sessions,
        adapted: Callable[[Any], ModelIdentity | None],
        pending: Callable[[], Request | None],
    ) -> None:
        self._engine = engine
        self._sessions = sessions
        self._adapted = adapted
        self._pending = pending
        self._open: dict[str, Open] = {}
        self._reports: dict[str, dict[int, Report]] = {}
        self._shared: WeakKeyDictionary[Any, Request] = WeakKeyDictionary()
        self._numbers: dict[str, int] = {}
        self._slots = Slots(engine.layout.slots)

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Have requests and outputs of the engine go through here."""
        processor = self._engine.processor
        with ExitStack() as undo:
            for name in ("add_request", "process_outputs", "abort_requests"):
                plain = getattr(processor, name)
                ours = getattr(self, f"_{name}")
                undo.enter_context(attribute(processor, name, _around(plain, ours)))
            yield

    def waiting(self) -> list[str]:
        """Return the ids of requests still open or held: empty once the engine is idle."""
        return [*self._open, *self._reports, *("slot" for _ in range(len(self._slots)))]

    def _add_request(
        self,
        plain: Callable[..., Any],
        request: Any,
        prompt: Any,
        parent_req: Any = None,
        request_index: int = 0,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        entered = None
        if self._is_followed(request):
            entered = self._enter(request, parent_req, request_index)
        try:
            return plain(request, prompt, parent_req, request_index, *args, **kwargs)
        except BaseException:
            if entered is not None:
                self._forget(request.request_id)
                self._sessions.drop(entered.session)
            raise

    def _is_followed(self, request: Any) -> bool:
        return not (
            request.sampling_params is None
            or (request.external_req_id or "").startswith(DOOR)
            or request.request_id in self._open
        )

    def _enter(self, request: Any, parent: Any, number: int) -> Open:
        """Open the session of a sequence, and send the workers its order.

        Raises:
            RefusedError: a request that is not sound, a plan that is not allowed, no free slot.

        """
        sampling = request.sampling_params
        extra = dict(sampling.extra_args or {})
        try:
            own = self._numbered(self._request(extra.pop(KEY, None), parent), parent)
            prompt = request.prompt_token_ids or ()
            session = self._sessions.open(own, prompt, self._adapted(request.lora_request))
        except EmoGuardError as error:
            raise RefusedError(str(error)) from error
        try:
            if request.resumable:
                self._sessions.skip(session, "input that is streamed")
            order, slot = self._order(session)
        except EmoGuardError as error:
            self._sessions.drop(session)
            raise RefusedError(str(error)) from error
        sampling.extra_args = extra | {KEY: order.data()}
        if session.steering is not None:
            # Another request must never reuse positions computed under steering.
            request.cache_salt = f"{request.cache_salt or ''}emoguard-{secrets.token_hex(8)}"
        call = parent.request_id if parent is not None else request.request_id
        entered = self._open[request.request_id] = Open(session, call, number, slot)
        return entered

    def _request(self, own: Any, parent: Any) -> Request:
        """Return the request of a call, which all choices of a `parent` share.

        Raises:
            EmoGuardError: anything but a Request or a description of one.

        """
        if parent is None:
            return self._parsed(own)
        if parent not in self._shared:  # its choices share parameters, which hold an order by then
            self._shared[parent] = self._parsed(own)
        return self._shared[parent]

    def _numbered(self, own: Request, parent: Any) -> Request:
        """Return the request under a name of its own if a call makes several responses."""
        number = self._numbers.pop(own.call, 0)
        self._numbers[own.call] = number + 1
        if len(self._numbers) > REMEMBERED:
            del self._numbers[next(iter(self._numbers))]
        if not number and parent is None:
            return own
        return dataclasses.replace(own, id=f"{own.call}-{number}")

    def _parsed(self, own: Any) -> Request:
        """Return the request in the parameters, else the context's, else a fresh one."""
        around = REQUEST.get()
        if own is None:
            return self._pending() or around or Request()
        if isinstance(own, Request):
            return own
        if isinstance(own, str):
            own = parse(own)
        elif around is None or around.carrier != "server":  # code in this process needs no leave
            return schema.parse(Request, own, KEY)
        fields, denied = client.parse_request(own, self._sessions.site.policy)
        return dataclasses.replace(around or Request(), **fields, denied=denied)

    def _order(self, session: Session) -> tuple[Order, str]:
        """Return the order of a session, and the plan that it holds a slot for.

        Raises:
            EmoGuardError: every slot is taken, or the plan's first position is unknown.

        """
        steering = session.steering
        if steering is None:
            return Order(), ""
        prompt = session.prompt_ids
        lead = sink_length(prompt)
        order = Order(
            first=lead if steering.plan.prompt else max(lead, len(prompt) - 1),
            plan=steering.plan.as_dict(),
            bound=steering.bound,
            calibration=session.site.identity.digest,
            sink=lead == len(prompt),
        )
        if order.sink and self._engine.runs_ahead:
            raise EmoGuardError(
                "a prompt of one token repeated cannot be steered here: whether it goes on as an "
                "attention sink is known too late under asynchronous scheduling"
            )
        if order.sink:
            order = dataclasses.replace(order, first=0 if steering.plan.prompt else len(prompt) - 1)
        slot = json.dumps([order.plan, order.bound, order.calibration], sort_keys=True)
        self._slots.take(slot)
        return order, slot

    def _process_outputs(
        self, plain: Callable[..., Any], each: Sequence[Any], *args: Any, **kwargs: Any
    ) -> Any:
        states = self._engine.processor.request_states
        seen: list[tuple[Any, Open, Any, int]] = []
        halted: list[str] = []
        for output in each:
            carried = outputs.take(output)
            entered = self._open.get(output.request_id)
            state = states.get(output.request_id)
            if entered is None or state is None:
                continue
            before = len(entered.session.token_ids)
            with self._sessions.guarded(entered.session):
                self._commit(entered.session, output, carried)
            if entered.session.halted and output.finish_reason is None:
                output.finish_reason, output.stop_reason = FinishReason.STOP, KEY
                halted.append(output.request_id)
            seen.append((output, entered, state, before))
        result = plain(each, *args, **kwargs)
        result.reqs_to_abort.extend(halted)  # the EngineCore does not know yet
        for output, entered, state, before in seen:
            with self._sessions.guarded(entered.session):
                self._trim(entered.session, before + len(output.new_token_ids))
                if state.emoguard_finish is not None:
                    self._finish(output.request_id, entered, state.emoguard_finish)
        for _, entered, state, _ in seen:  # choices of one request may all end in this step
            with self._sessions.guarded(entered.session):
                self._give(entered, state, result)
        return result

    def _commit(self, session: Session, output: Any, carried: Carried | None) -> None:
        """Keep the rows of an output's tokens; cut it off behind the token that ends it."""
        tokens = output.new_token_ids
        if session.closed or not tokens:
            return
        sessions = self._sessions
        if carried is not None and carried.reading is not None and session.fault is None:
            sessions.fail(session, BrokenError(carried.reading))
        if carried is not None and carried.steering is not None and not session.steering_fault:
            sessions.fail(session, BrokenError(carried.steering), "steering")
        width = len(session.site.read)
        rows = _rows(carried, len(tokens), width)
        moves = session.steering is not None
        for number, token in enumerate(tokens):
            row = rows[number]
            move = (float(row[-3]), float(row[-2]), float(row[-1])) if moves else None
            if sessions.commit(session, token, row[:width], move):
                _cut(output, number + 1)
                break

    def _trim(self, session: Session, tokens: int) -> None:
        """Forget tokens behind a stop string, which nobody gets."""
        for kept in (session.token_ids, session.rows, session.moves):
            del kept[tokens:]

    def _finish(self, request: str, entered: Open, reason: Any) -> None:
        session = entered.session
        finish: Finish = FINISHES.get(reason, "unknown")
        self._forget(request)
        report = self._sessions.close(session, "halted" if session.halted else finish)
        if report is not None:
            self._reports.setdefault(entered.call, {})[entered.choice] = report

    def _give(self, entered: Open, state: Any, result: Any) -> None:
        """Attach a report to each choice that has ended, for the caller."""
        reports = self._reports.get(entered.call)
        if not reports:
            return
        parent = state.parent_req
        name = (parent or state).external_req_id
        if state.queue is not None:
            answers = [state.queue.output]
        else:
            answers = [each for each in result.request_outputs if each.request_id == name]
        for answer in answers:
            if not hasattr(answer, "outputs"):
                continue
            answer.emoguard = [
                reports[choice.index] for choice in answer.outputs if choice.index in reports
            ]
            for choice in answer.outputs:
                report = reports.get(choice.index)
                if report is not None and report.finish == "halted" and choice.finish_reason:
                    choice.finish_reason = client.HALTED
            if answer.finished:
                self._reports.pop(entered.call, None)

    def _abort_requests(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        ended = plain(*args, **kwargs)
        for request in ended:
            entered = self._open.get(request)
            if entered is not None:
                self._forget(request)
                self._reports.pop(entered.call, None)
                with contextlib.suppress(Exception):
                    self._sessions.close(entered.session, "cancelled")
        return ended

    def _forget(self, request: str) -> None:
        entered = self._open.pop(request, None)
        if entered is not None and entered.slot:
            self._slots.leave(entered.slot)


def _around(plain: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return ours(plain, *args, **kwargs)

    return wrapped


def _rows(carried: Carried | None, tokens: int, width: int) -> Any:
    """Return the rows of tokens, (tokens, labels + MOVES); NaN where none came."""
    if carried is None or carried.rows.shape != (tokens, width + MOVES):
        return np.full((tokens, width + MOVES), np.nan, np.float32)
    return carried.rows


def _cut(output: Any, tokens: int) -> None:
    """Cut an output off behind so many tokens."""
    del output.new_token_ids[tokens:]
    if output.new_logprobs is not None:
        output.new_logprobs = output.new_logprobs.slice_request(0, tokens)
