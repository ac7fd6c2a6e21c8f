"""The watch on a Transformers model: hooks on its blocks, sessions around its `generate`."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from transformers import MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList

from emoguard.errors import EmoGuardError
from emoguard.phases import THINKING_MARKS
from emoguard.records import Finish, Reading, Report, Request
from emoguard.session import Session
from emoguard_transformers import compiled
from emoguard_transformers.blocks import find_blocks
from emoguard_transformers.compiled import forget_compiled
from emoguard_transformers.door import Door
from emoguard_transformers.identity import active_adapters
from emoguard_transformers.readout import Weights, read
from emoguard_transformers.requests import batch_size, take_requests, unsupported
from emoguard_transformers.run import Run

if TYPE_CHECKING:
    from emoguard.guard import Guard

log = logging.getLogger("emoguard")

LIMITS = (MaxLengthCriteria, MaxTimeCriteria)
"""What cuts a sequence off; any other criterion ends it."""

BATCHED = ("generate_batch", "init_continuous_batching")
"""Ways into continuous batching, which runs in a thread of its own."""


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
        self._model = model
        self._blocks = find_blocks(model)
        self._thinking = _thinking_ids(tokenizer)
        self._columns = guard.probe.indices(guard.labels)
        self._devices = [door.devices[layer] for layer in guard.probe.layers]
        self._open: list[Run] = []
        self._free: dict[int, list[torch.Tensor]] = {}
        self._local = threading.local()
        self._logged = False
        self._stack = ExitStack()
        with ExitStack() as undo:
            self._add_hooks(undo)
            self._wrap(undo)
            self._stack = undo.pop_all()

    def live(self) -> Reading | None:
        """Return what the newest open generation has read so far (its first sequence)."""
        runs = [run for run in list(self._open) if not run.closed]
        if not runs:
            return None
        session, _ = runs[-1].sessions(len(self.guard.labels))[0]
        return session.reading("unknown", len(self.guard.labels))

    def detach(self) -> None:
        """Remove the hooks and wrappers; compiled code that holds them is forgotten. Idempotent."""
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

    def _hook(self, index: int, weights: Weights) -> Callable[..., None]:
        local = self._local

        def hook(_module: Any, _args: Any, output: Any) -> None:
            run = getattr(local, "run", None)
            if run is None or run.pending is None or run.fault is not None:
                return
            if torch.compiler.is_compiling():
                read(run.pending[index], weights, output)
                return
            try:
                read(run.pending[index], weights, output)
            except Exception as error:  # noqa: BLE001  (the response must not notice)
                self._fail(run, error)

        return hook

    def _wrap(self, undo: ExitStack) -> None:
        model = self._model
        plain = {
            name: getattr(model, name)
            for name in ("generate", "_get_stopping_criteria", *BATCHED)
            if hasattr(model, name)
        }
        if "_get_stopping_criteria" not in plain:
            raise EmoGuardError(
                f"{type(model).__qualname__} does not say when its tokens are chosen "
                "(no _get_stopping_criteria): use transformers 5"
            )
        owned = {name: value for name, value in vars(model).items() if name in plain}

        def unwrap() -> None:
            for name in ("_emoguard", *plain):
                vars(model).pop(name, None)
            vars(model).update(owned)

        undo.callback(unwrap)
        vars(model)["_emoguard"] = self
        vars(model)["generate"] = self._wrapped_generate(plain["generate"])
        vars(model)["_get_stopping_criteria"] = self._wrapped_criteria(
            plain["_get_stopping_criteria"]
        )
        for name in plain.keys() & set(BATCHED):
            vars(model)[name] = self._wrapped_batch(plain[name])

    def _wrapped_generate(self, plain: Any) -> Callable[..., Any]:
        local = self._local

        def generate(*args: Any, **kwargs: Any) -> Any:
            requests = take_requests(kwargs)
            outer = getattr(local, "run", None)
            if outer is not None:
                # A generate inside a generate: where the outer one counts tokens itself, the inner
                # is silent; where it only delegates, the inner one counts for it.
                local.run = None if outer.reading else outer
                try:
                    return plain(*args, **kwargs)
                finally:
                    local.run = outer
            run = Run(
                requests,
                self._identity_now(),
                self._thinking,
                batch=batch_size(args, kwargs),
                assistant=kwargs.get("assistant_model"),
            )
            if kwargs.get("streamer") is not None:
                # The report is there before the consumer sees the end of the stream.
                kwargs["streamer"] = _Streamer(kwargs["streamer"], lambda: self._close(run))
            with self._opened(run):
                output = plain(*args, **kwargs)
            self._close(run)
            return output

        return generate

    @contextmanager
    def _opened(self, run: Run) -> Iterator[None]:
        self._open.append(run)
        self._local.run = run
        try:
            yield
        except BaseException:
            self._close(run, "cancelled")
            raise
        finally:
            self._local.run = None
            self._open.remove(run)

    def _wrapped_criteria(self, plain: Any) -> Callable[..., Any]:
        def criteria(generation_config: Any, *args: Any, **kwargs: Any) -> Any:
            found = plain(generation_config, *args, **kwargs)
            run = getattr(self._local, "run", None)
            if run is None or run.reading or run.skipped:
                return found
            reason = unsupported(generation_config, run.assistant)
            if reason:
                self._skip(run, reason)
                return found
            self._begin(run, run.batch * (generation_config.num_return_sequences or 1))
            return _Commit(found, self, run)

        return criteria

    def _wrapped_batch(self, plain: Any) -> Callable[..., Any]:
        def generate_batch(*args: Any, **kwargs: Any) -> Any:
            requests = take_requests(kwargs)
            run = getattr(self._local, "run", None)
            if run is not None:
                self._skip(run, "continuous batching")
                return plain(*args, **kwargs)
            run = Run(requests, self.identity, self._thinking)
            self._skip(run, "continuous batching")
            with self._opened(run):
                output = plain(*args, **kwargs)
            self._close(run)
            return output

        return generate_batch

    def _skip(self, run: Run, reason: str) -> None:
        """Refuse a generation that cannot be read, or let it run unread, as the policy says."""
        run.skipped = f"{reason} has no one reading per token"
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

    def _begin(self, run: Run, rows: int) -> None:
        """Give the hooks of this thread a buffer to write to."""
        if isinstance(run.requests, Sequence) and len(run.requests) != rows:
            run.closed = True
            raise EmoGuardError(
                f"emoguard= must be one Request or one for each of {rows} sequences, "
                f"got {len(run.requests)}"
            )
        try:
            run.pending = self._buffer(rows)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(run, error)

    def _buffer(self, rows: int) -> torch.Tensor:
        """Return a buffer full of NaN, used again after each run: its address stays the same."""
        free = self._free.setdefault(rows, [])
        # Never an inference tensor: the next generation may run outside inference mode.
        with torch.inference_mode(mode=False):
            shape = (len(self._devices), rows, len(self.guard.labels))
            try:
                buffer = free.pop()  # another thread may take the last one
            except IndexError:
                buffer = torch.empty(shape, device=self._devices[-1])
        compiled.hold_still(buffer)
        return buffer.fill_(torch.nan)

    def _fail(self, run: Run, error: BaseException) -> None:
        run.fail(error)
        if not self._logged:
            self._logged = True
            log.error("reading failed, the response is untouched (logged once): %s", run.fault)

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
            pairs = [(self._empty(run), "error")]
        if run.pending is not None:
            self._free[run.pending.shape[1]].append(run.pending)
            run.pending = None
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
        if run.identity != self.identity:
            rows = np.array(session.rows, np.float64)
            if old := self.guard.calibration(self.identity):
                rows = rows * old.scale[self._columns] + old.location[self._columns]
            if new := self.guard.calibration(run.identity):
                rows = (rows - new.location[self._columns]) / new.scale[self._columns]
            session.rows = list(rows.astype(np.float32))
        return session

    def _empty(self, run: Run) -> Session:
        request = run.requests if isinstance(run.requests, Request) else run.requests[0]
        return Session(request, run.identity, "transformers", (), fault=run.fault)


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
        for criterion in self:
            verdict = criterion(input_ids, scores, **kwargs)
            if isinstance(criterion, LIMITS):
                cut = cut | verdict
            else:
                stopped = stopped | verdict
        if not self._run.closed:
            try:
                self._run.commit(input_ids, stopped)
            except Exception as error:  # noqa: BLE001  (the response must not notice)
                self._watch._fail(self._run, error)  # noqa: SLF001
        return cut | stopped


class _Streamer:
    """The caller's streamer, with a word before its end."""

    def __init__(self, inner: Any, before_end: Callable[[], None]) -> None:
        self._inner = inner
        self._before_end = before_end

    def put(self, value: Any) -> None:
        """Pass tokens on."""
        self._inner.put(value)

    def end(self) -> None:
        """Close the session, then the stream."""
        self._before_end()
        self._inner.end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _thinking_ids(tokenizer: Any) -> tuple[int, int] | None:
    """Return the ids of the tokenizer's reasoning marks, if both are single tokens of it."""
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
    for opening, closing in THINKING_MARKS:
        if opening in vocabulary and closing in vocabulary:
            return vocabulary[opening], vocabulary[closing]
    return None
