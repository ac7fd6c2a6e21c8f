"""The watch on a Transformers model: hooks on its blocks, sessions around its `generate`."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteriaList,
)

from emoguard.errors import EmoGuardError
from emoguard.live import LiveAlarm
from emoguard.phases import THINKING_MARKS, Thinking
from emoguard.plan import Plan
from emoguard.records import Finish, Reading, Report, Request, check_name
from emoguard.session import Session
from emoguard.standing import Standing
from emoguard.template import opens_reasoning
from emoguard_transformers import compiled
from emoguard_transformers.blocks import find_blocks, hidden_state
from emoguard_transformers.compiled import forget_compiled
from emoguard_transformers.door import Door
from emoguard_transformers.identity import active_adapters
from emoguard_transformers.prompts import Prompts
from emoguard_transformers.readout import Weights, read
from emoguard_transformers.requests import (
    batch_size,
    by_name,
    foreign_loop,
    new_positions,
    signature_of,
    take_requests,
    unsupported,
    with_streamer,
)
from emoguard_transformers.run import Run
from emoguard_transformers.steer import MOVES, Batch, Lead, acting, fused_for, gather, steer

if TYPE_CHECKING:
    from emoguard.guard import Guard
    from emoguard.identity import ModelIdentity
    from emoguard.steering import Steering

log = logging.getLogger("emoguard")

LIMITS = (MaxLengthCriteria, MaxTimeCriteria)
"""What cuts a sequence off; any other criterion ends it."""

BATCHED = ("generate_batch", "init_continuous_batching")
"""Ways into continuous batching, which runs in a thread of its own."""

NO_TEXT = (
    "the policy follows notice profiles, but attach() was given no tokenizer: claims in a response "
    "are not found, and its reasoning is not told apart; pass tokenizer="
)
"""What is silently lost otherwise."""


class TransformersWatch:
    """Reads every generation of `model` until detached. See `emoguard.protocols.Watch`."""

    def __init__(self, model: Any, guard: Guard, tokenizer: Any = None) -> None:
        if "_emoguard" in vars(model):
            raise EmoGuardError("this model is already watched: detach the other watch first")
        door = Door(model, tokenizer)
        guard.probe.check_fits(door.identity)
        guard.probe.witness.check(door, guard.probe.layers)
        self.guard = guard
        self.reports: deque[Report] = deque(maxlen=guard.policy.keep_reports)
        self.identity = door.identity
        guard.steering(None, self.identity)  # a standing plan that cannot be is refused here
        self._model = model
        self._blocks = find_blocks(model)
        self._thinking = _find_thinking(tokenizer)
        self._decode = _decoder(tokenizer)
        self._columns = guard.probe.indices(guard.labels)
        self._devices = [door.devices[layer] for layer in guard.probe.layers]
        self._open: list[Run] = []
        self._free: dict[tuple[str, tuple[int, ...]], list[torch.Tensor]] = {}
        self._local = threading.local()
        self._logged: set[str] = set()
        self._standing = Standing()
        self._detached = False
        self._stack = ExitStack()
        with ExitStack() as undo:
            self._add_hooks(undo)
            self._wrap(undo)
            undo.callback(guard.serve(self.identity))
            self._stack = undo.pop_all()
        if tokenizer is None and guard.policy.notices.followed():
            log.warning(NO_TEXT)

    def live(self) -> Reading | None:
        """Return what the newest open generation has read so far (its first sequence)."""
        runs = [run for run in list(self._open) if not run.closed]
        if not runs:
            return None
        session, _ = runs[-1].sessions(len(self.guard.labels))[0]
        return session.reading("unknown", len(self.guard.labels))

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
            EmoGuardError: a plan that this probe, model or policy does not allow.

        """
        checked = None if plan is None else Plan.parse(plan)
        self._plans(Request(plan=checked), self._identity_now())

    def abandon(self, request_id: str) -> None:
        """Have the notice of what a thread still generates for a request count as lost."""
        self.guard.ledger.leave(check_name("request_id", request_id))

    def detach(self) -> None:
        """Remove the hooks and wrappers; compiled code that holds them is forgotten. Idempotent."""
        self._detached = True
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.detach()

    def _add_hooks(self, undo: ExitStack) -> None:
        readout = self.guard.readout(self.identity)
        forget_compiled(self._model, self._blocks)
        undo.callback(forget_compiled, self._model, self._blocks)
        for index, layer in enumerate(readout.layers):
            block = self._blocks[layer]
            weights = Weights.of(readout, index, self._devices[index])
            undo.callback(block.register_forward_hook(self._hook(index, weights)).remove)

    def _hook(self, index: int, weights: Weights) -> Callable[..., Any]:
        local = self._local

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            run = getattr(local, "run", None)
            if run is None or run.aside:
                return None
            compiling = torch.compiler.is_compiling()
            if run.pending is not None and run.fault is None:
                if compiling:
                    read(run.pending[index], weights, output)
                else:
                    try:
                        read(run.pending[index], weights, output)
                    except Exception as error:  # noqa: BLE001  (the response must not notice)
                        self._fail(run, error)
            layer = run.steering.layers.get(index) if run.steering is not None else None
            if layer is None or run.steering_fault is not None:
                return None
            # Only a pass over several positions asks how many tokens came before it: compiled
            # code would be made again for each count.
            steps = run.steps if hidden_state(output).shape[1] > 1 else 0
            if compiling:
                return steer(layer, output, steps)
            try:
                return steer(layer, output, steps)
            except Exception as error:  # noqa: BLE001  (the rest is not steered, or ends)
                self._fail_steering(run, error)
                return None

        return hook

    def _wrap(self, undo: ExitStack) -> None:
        model = self._model
        plain = {
            name: getattr(model, name)
            for name in ("generate", "_get_stopping_criteria", "_get_logits_processor", *BATCHED)
            if hasattr(model, name)
        }
        lacking = {"_get_stopping_criteria", "_get_logits_processor"} - plain.keys()
        if lacking:
            raise EmoGuardError(
                f"{type(model).__qualname__} does not say when its tokens are chosen "
                f"(no {', '.join(sorted(lacking))}): use transformers 5"
            )
        ours = {
            "_emoguard": self,
            "generate": self._wrapped_generate(plain["generate"]),
            "_get_stopping_criteria": self._wrapped_criteria(plain["_get_stopping_criteria"]),
            "_get_logits_processor": self._wrapped_processors(plain["_get_logits_processor"]),
        }
        ours |= {n: self._wrapped_batch(plain[n]) for n in plain.keys() & set(BATCHED)}
        before = {name: value for name, value in vars(model).items() if name in ours}

        def unwrap() -> None:
            # What somebody else has put over it since is theirs to take away.
            for name in [name for name in ours if vars(model).get(name) is ours[name]]:
                del vars(model)[name]
                vars(model).update({k: v for k, v in before.items() if k == name})

        undo.callback(unwrap)
        vars(model).update(ours)

    def _wrapped_generate(self, plain: Any) -> Callable[..., Any]:
        signature = signature_of(plain)

        def generate(*args: Any, **kwargs: Any) -> Any:
            requests = take_requests(kwargs)
            if self._detached:  # whoever wrapped it, too, still calls this
                return plain(*args, **kwargs)
            given = by_name(signature, args, kwargs)
            outer = self._running()
            if outer is not None:
                with self._inside(outer, given):
                    return plain(*args, **kwargs)
            compiled.look_at_hooks()
            run = self._new_run(requests, given)
            streamer = given.get("streamer")
            if streamer is not None:
                # The report is there before the consumer sees the end of the stream.
                ours = _Streamer(streamer, run, lambda: self._close(run))
                args, kwargs = with_streamer(ours, streamer, args, kwargs)
            with self._opened(run):
                output = plain(*args, **kwargs)
            self._close(run)
            return output

        return generate

    def _running(self) -> Run | None:
        """Return the run of this thread; one that is closed takes in nothing more.

        The end of a stream, where the caller may already generate the next response, is after that.
        """
        run: Run | None = getattr(self._local, "run", None)
        return None if run is None or run.closed else run

    def _new_run(self, requests: Request | Sequence[Request], given: Mapping[str, Any]) -> Run:
        identity = self._identity_now()
        run = Run(
            requests,
            identity,
            self._thinking,
            batch=batch_size(given),
            positions=new_positions(given),
            plans=self._plans(requests, identity),
            decode=self._decode,
        )
        self._note_loop(run, given)
        return run

    def _note_loop(self, run: Run, given: Mapping[str, Any]) -> None:
        """Remember what decides how tokens are chosen; skip a loop that is not Transformers'."""
        if given.get("assistant_model") is not None:
            run.assistant = given["assistant_model"]
        loop = foreign_loop(given)
        if loop:
            self._skip(run, loop)

    @contextmanager
    def _inside(self, outer: Run, given: Mapping[str, Any]) -> Iterator[None]:
        """Hold a generate inside a generate.

        Where the outer one counts tokens itself, the inner is silent; where it only delegates, the
        inner one counts for it.
        """
        delegates = not outer.reading
        if delegates:
            self._note_loop(outer, given)
        self._local.run = outer if delegates else None
        try:
            yield
        finally:
            self._local.run = outer

    @contextmanager
    def _opened(self, run: Run) -> Iterator[None]:
        before = getattr(self._local, "run", None)
        self._open.append(run)
        self._local.run = run
        try:
            yield
        except BaseException:
            self._close(run, "cancelled")
            raise
        finally:
            self._local.run = before
            self._open.remove(run)

    def _wrapped_criteria(self, plain: Any) -> Callable[..., Any]:
        def criteria(generation_config: Any, *args: Any, **kwargs: Any) -> Any:
            found = plain(generation_config, *args, **kwargs)
            run = self._running()
            if run is None or run.reading or run.skipped:
                return found
            reason = unsupported(generation_config, run.assistant)
            if reason:
                self._skip(run, reason)
                return found
            rows = run.batch * (generation_config.num_return_sequences or 1)
            self._begin(run, rows, chunked=generation_config.prefill_chunk_size is not None)
            return _Commit(found, self, run)

        return criteria

    def _wrapped_processors(self, plain: Any) -> Callable[..., Any]:
        def processors(*args: Any, **kwargs: Any) -> Any:
            found = plain(*args, **kwargs)
            run = self._running()
            if run is None:
                return found
            if not run.reading:
                run.prompts = Prompts.seen(kwargs)
            return _Processors(found, run)

        return processors

    def _wrapped_batch(self, plain: Any) -> Callable[..., Any]:
        def generate_batch(*args: Any, **kwargs: Any) -> Any:
            requests = take_requests(kwargs)
            if self._detached:
                return plain(*args, **kwargs)
            outer = self._running()
            if outer is not None:
                self._skip(outer, "continuous batching")
                return plain(*args, **kwargs)
            plans = self._plans(requests, self.identity)
            run = Run(requests, self.identity, self._thinking, plans=plans)
            self._skip(run, "continuous batching")
            with self._opened(run):
                output = plain(*args, **kwargs)
            self._close(run)
            return output

        return generate_batch

    def _skip(self, run: Run, reason: str) -> None:
        """Refuse a generation that cannot be read, or let it run unread, as the policy says."""
        run.skipped = f"{reason} has no one reading per token"
        if any(run.plans):
            run.closed = True
            raise EmoGuardError(
                f"{run.skipped} and cannot be steered: generate without it, or without a plan"
            )
        if self.guard.policy.on_unsupported == "refuse":
            run.closed = True
            raise EmoGuardError(
                f"{run.skipped}: generate without it, or set on_unsupported: skip in the policy"
            )

    def _identity_now(self) -> Any:
        """Return the identity with the adapters of this moment: other adapters, other file."""
        adapters = active_adapters(self._model)
        if adapters == self.identity.adapters:
            return self.identity
        return dataclasses.replace(self.identity, adapters=adapters)

    def _begin(self, run: Run, rows: int, *, chunked: bool) -> None:
        """Give the hooks of this thread a buffer to write to, and what they are to steer."""
        if isinstance(run.requests, Sequence) and len(run.requests) != rows:
            run.closed = True
            raise EmoGuardError(
                f"emoguard= must be one Request or one for each of {rows} sequences, "
                f"got {len(run.requests)}"
            )
        try:
            shape = len(self._devices), rows, len(self.guard.labels)
            run.pending = self._buffer("pending", shape)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(run, error)
        run.plans = run.plans if len(run.plans) == rows else run.plans * rows
        try:
            run.steering = self._steering(run, rows, run.positions if chunked else None)
        except Exception as error:  # noqa: BLE001  (the response is not steered, or ends)
            self._fail_steering(run, error)

    def follow(self, run: Run, input_ids: Any) -> None:
        """Have alarms follow the sequences of a run, once their prompts are known."""
        # The rows of the hooks are in the scale of the model as it was at attach.
        if run.steps or run.pending is None or run.identity != self.identity:
            return
        prompts = run.prompt_ids(input_ids[:, :-1])
        alarms = [
            LiveAlarm.make(self.guard, self.identity, request, prompt, self._thinking)
            for request, prompt in zip(run.each_request(len(prompts)), prompts, strict=True)
        ]
        run.alarms = alarms if any(alarms) else None

    def _buffer(self, use: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a buffer full of NaN, for the same `use` again after each run.

        Its address stays the same, so that CUDA graphs need not be recorded anew.
        """
        free = self._free.setdefault((use, shape), [])
        # Never an inference tensor: the next generation may run outside inference mode.
        with torch.inference_mode(mode=False):
            try:
                buffer = free.pop()  # another thread may take the last one
            except IndexError:
                buffer = torch.empty(shape, device=self._devices[-1])
        compiled.hold_still(buffer)
        return buffer.fill_(torch.nan)

    def _plans(
        self, requests: Request | Sequence[Request], identity: ModelIdentity
    ) -> list[Steering | None]:
        """Return what each request's plan comes to here; refuse one that cannot be."""
        each = [requests] if isinstance(requests, Request) else requests
        standing = self._standing.plan()
        laid = [
            request.plan.over(standing) if request.plan is not None else standing
            for request in each
        ]
        return [self.guard.steering(plan, identity) for plan in laid]

    def _steering(self, run: Run, rows: int, chunked: int | None) -> Batch | None:
        """Put the plans of a batch onto the devices; None where there is none."""
        probed = self.guard.probe.layers
        indices = acting(run.plans, probed)
        if not indices:
            return None
        moves = self._buffer("moves", (len(indices), rows, MOVES))
        lead = self._lead(run, rows, moves.device)
        layers = {}
        for index, place in zip(indices, moves, strict=True):
            compiled.hold_still(place)
            device = self._devices[index]
            layer = gather(run.plans, probed[index], device, place, chunked=chunked, lead=lead)
            # A kernel cannot write to another device, where a model is spread over several.
            layer.fused = fused_for(device) if device == moves.device else None
            layers[index] = layer
        return Batch(layers, moves, lead)

    def _lead(self, run: Run, rows: int, device: Any) -> Lead | None:
        """Return what steering leaves alone, None where it comes to no attention sink."""
        if run.prompts is None:
            return None
        with torch.inference_mode(mode=False):
            lead = Lead.of(run.prompts, rows, device)
        for tensor in (lead.counts, lead.first, lead.end):
            compiled.hold_still(tensor)
        return lead if lead.grows or any(plan and plan.plan.prompt for plan in run.plans) else None

    def _fail_steering(self, run: Run, error: BaseException) -> None:
        """Leave the rest of a run unsteered, or end it, as the policy says."""
        run.fail_steering(error)
        if self.guard.policy.steering.on_fault == "stop":
            run.halted = f"steering broke ({run.steering_fault}) and the policy says stop"
        self._log_once("steering failed, what follows is not steered (logged once): %s", error)

    def _fail(self, run: Run, error: BaseException) -> None:
        run.fail(error)
        self._log_once("reading failed, the response is untouched (logged once): %s", error)

    def _log_once(self, message: str, error: BaseException) -> None:
        if message not in self._logged:
            self._logged.add(message)
            log.error(message, f"{type(error).__name__}: {error}")

    def _close(self, run: Run, finish: Finish | None = None) -> None:
        """Turn a run into reports, once; whatever breaks here stays here."""
        if run.closed:
            return
        run.closed = True
        start = time.perf_counter()
        try:
            pairs = [(self._scaled(run, s), f) for s, f in run.sessions(len(self.guard.labels))]
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(run, error)
            pairs = [(session, "error") for session in run.empty_sessions()]
        moves = run.steering.moves if run.steering else None
        for use, buffer in (("pending", run.pending), ("moves", moves)):
            if buffer is not None:
                self._free[use, tuple(buffer.shape)].append(buffer)
        run.pending = run.steering = None
        spent = time.perf_counter() - start
        for session, ended in pairs:
            session.seconds += spent / len(pairs)
            self._report(run, session, finish or ended)

    def _report(self, run: Run, session: Session, finish: Finish) -> None:
        try:
            self.reports.append(session.close(self.guard, finish))
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(run, error)

    def _scaled(self, run: Run, session: Session) -> Session:
        """Return `session` in the scale its identity calls for.

        The hooks multiply with the scale of the model as it was at attach; with other adapters
        since then, another calibration holds, or none.
        """
        if session.rows and run.identity != self.identity:
            rows = np.array(session.rows, np.float64)
            if old := self.guard.calibration(self.identity):
                rows = rows * old.scale[self._columns] + old.location[self._columns]
            if new := self.guard.calibration(run.identity):
                rows = (rows - new.location[self._columns]) / new.scale[self._columns]
            session.rows = list(rows.astype(np.float32))
        return session


class _Commit(StoppingCriteriaList):
    """The model's own stopping criteria; each verdict commits the token it was about.

    `generate` asks exactly once per chosen token, outside any compiled region.
    """

    def __init__(self, inner: Any, watch: TransformersWatch, run: Run) -> None:
        super().__init__(inner)
        self._watch = watch
        self._run = run

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return which sequences are done; a limit cuts off, everything else is a stop."""
        cut = stopped = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        with self._run.stand_aside():
            for criterion in self:
                verdict = criterion(input_ids, scores, **kwargs)
                if isinstance(criterion, LIMITS):
                    cut = cut | verdict
                else:
                    stopped = stopped | verdict
        if not self._run.closed:
            try:
                self._watch.follow(self._run, input_ids)
                self._run.commit(input_ids, stopped)
            except Exception as error:  # noqa: BLE001  (the response must not notice)
                self._watch._fail(self._run, error)  # noqa: SLF001
        done = cut | stopped
        for row in self._run.halts:
            done[row] = True
        return torch.ones_like(done) if self._run.halted else done


class _Processors(LogitsProcessorList):
    """The logits processors; those of the caller may run the model themselves."""

    def __init__(self, inner: Any, run: Run) -> None:
        super().__init__(inner)
        self._run = run

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return the scores as processed."""
        with self._run.stand_aside():
            return super().__call__(input_ids, scores, **kwargs)


class _Streamer:
    """The caller's streamer, with a word before its end."""

    def __init__(self, inner: Any, run: Run, before_end: Callable[[], None]) -> None:
        self._inner = inner
        self._run = run
        self._before_end = before_end

    def put(self, value: Any) -> None:
        """Pass tokens on."""
        with self._run.stand_aside():
            self._inner.put(value)

    def end(self) -> None:
        """Close the session, then the stream."""
        self._before_end()
        self._inner.end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _decoder(tokenizer: Any) -> Callable[[Sequence[int]], str] | None:
    """Return what makes text of token ids, None without a tokenizer."""
    if tokenizer is None:
        return None
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _find_thinking(tokenizer: Any) -> Thinking | None:
    """Return the tokenizer's reasoning marks, None unless both are single tokens of it.

    Whether a template or somebody else wrote a prompt cannot be seen: where there is a template,
    only a mark that it can write itself opens reasoning.
    """
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
    for opening, closing in THINKING_MARKS:
        if opening in vocabulary and closing in vocabulary:
            opens = not getattr(tokenizer, "chat_template", None)
            return Thinking(
                vocabulary[opening],
                vocabulary[closing],
                opens or opens_reasoning(_renderer(tokenizer), opening),
                cache(_blank(tokenizer)),
            )
    return None


def _renderer(tokenizer: Any) -> Callable[..., str]:
    """Return what the tokenizer's chat template makes of messages."""
    return lambda messages, **switches: str(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **switches
        )
    )


def _blank(tokenizer: Any) -> Callable[[int], bool]:
    return lambda token: not tokenizer.decode([token], skip_special_tokens=False).strip()
