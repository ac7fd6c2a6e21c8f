"""Wraps `generate`: takes its requests, follows its loop, closes its sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from emoguard_torch import compiled

from emoguard.errors import EmoGuardError
from emoguard.records import Finish, Request
from emoguard.runtime.joint import Sessions
from emoguard.runtime.patch import attribute
from emoguard_transformers.hooks import Hooks
from emoguard_transformers.loop import Criteria, Processors, Streamer
from emoguard_transformers.prompts import Prompts
from emoguard_transformers.requests import (
    batch_size,
    by_name,
    foreign_loop,
    new_positions,
    numbered,
    signature_of,
    take_requests,
    unsupported,
    with_streamer,
)
from emoguard_transformers.run import Run

LOOP = ("_get_stopping_criteria", "_get_logits_processor")
"""Methods whose results show when Transformers' own loop chooses a token."""


class Generate:
    """Follows every `generate` of `model` while its methods are wrapped."""

    def __init__(self, model: Any, sessions: Sessions, hooks: Hooks) -> None:
        self._model = model
        self._sessions = sessions
        self._hooks = hooks
        self._attached = True

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Wrap the model's methods in this block.

        Raises:
            EmoGuardError: the model's loop does not show when it chooses a token.

        """
        model = self._model
        if lacking := [name for name in LOOP if not hasattr(model, name)]:
            raise EmoGuardError(
                f"{type(model).__qualname__} does not say when its tokens are chosen "
                f"(no {', '.join(sorted(lacking))}): use transformers 5"
            )
        wrappers = {
            "generate": self._generating,
            LOOP[0]: self._criteria,
            LOOP[1]: self._processors,
        }
        with ExitStack() as undo:
            for name, wrap in wrappers.items():
                undo.enter_context(attribute(model, name, wrap(getattr(model, name))))
            undo.callback(self._let_go)
            yield

    def _let_go(self) -> None:
        # Another wrapper around this one still calls it after a detach.
        self._attached = False

    def _generating(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        signature = signature_of(plain)

        def generate(*args: Any, **kwargs: Any) -> Any:
            requests = take_requests(kwargs)
            if not self._attached:
                return plain(*args, **kwargs)
            arguments = by_name(signature, args, kwargs)
            outer = self._hooks.run
            if outer is not None:
                with self._inside(outer, arguments):
                    return plain(*args, **kwargs)
            compiled.respect_hooks()
            run = self._open(requests, batch_size(arguments), new_positions(arguments))
            self._note_loop(run, arguments)
            streamer = arguments.get("streamer")
            if streamer is not None:
                # The report is made before the consumer sees the end of the stream.
                ours = Streamer(streamer, run, lambda: self._close(run))
                args, kwargs = with_streamer(ours, streamer, args, kwargs)
            return self._followed(run, lambda: plain(*args, **kwargs))

        return generate

    def _criteria(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def criteria(generation_config: Any, *args: Any, **kwargs: Any) -> Any:
            criteria_ = plain(generation_config, *args, **kwargs)
            run = self._hooks.run
            if run is None or run.tape is not None or run.skipped:
                return criteria_
            run.begun = True
            if mode := unsupported(generation_config, run.assistant):
                self._skip(run, mode)
                return criteria_
            self._begin(run, generation_config)
            return Criteria(criteria_, run, self._commit)

        return criteria

    def _processors(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def processors(*args: Any, **kwargs: Any) -> Any:
            processors_ = plain(*args, **kwargs)
            run = self._hooks.run
            if run is None:
                return processors_
            if run.tape is None:
                run.prompts = Prompts.seen(kwargs)
            return Processors(processors_, run)

        return processors

    def _open(
        self, requests: Request | Sequence[Request], batch: int = 1, positions: int = 0
    ) -> Run:
        """Open a session for each request; of one request's further sequences `_begin` opens them.

        Raises:
            EmoGuardError: a plan that is not allowed; no session stays open.

        """
        run = Run(requests, batch, positions)
        each = [requests] if isinstance(requests, Request) else requests
        with self._refusing(run):
            for request in each:
                run.add(self._sessions.open(request))
        return run

    def _begin(self, run: Run, generation_config: Any) -> None:
        """Give each sequence a session, now that their number is known, and the hooks buffers."""
        rows = run.batch * (generation_config.num_return_sequences or 1)
        with self._refusing(run):
            if not isinstance(run.requests, Request) and len(run.requests) != rows:
                raise EmoGuardError(
                    f"emoguard= must be one Request or one for each of {rows} sequences, "
                    f"got {len(run.requests)}"
                )
            if isinstance(run.requests, Request):
                first = run.sessions[0]
                first.request, *others = numbered(run.requests, rows)
                identity = first.site.identity
                for request in others:
                    run.add(self._sessions.open(request, identity=identity))
        self._hooks.begin(run, chunked=generation_config.prefill_chunk_size is not None)

    def _commit(self, run: Run, input_ids: Any, stopped: Any) -> None:
        """Keep the rows of the tokens just chosen, and show them to the alarms."""
        try:
            rows = run.commit(input_ids, stopped)
            for row, session in enumerate(run.sessions):
                if session.halted:  # steering broke; alarms halt below
                    run.halt(row)
            if rows is not None and any(session.alarm for session in run.sessions):
                self._follow(run, input_ids, rows, stopped)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            run.failed = True
            for session in run.sessions:
                self._sessions.fail(session, error)

    def _follow(self, run: Run, input_ids: Any, rows: Any, stopped: Any) -> None:
        """Show tokens to the alarms. Waits for the device, so only for runs that have some.

        A sequence that has ended is no longer followed: the rest is padding.
        """
        if run.steps == 1:
            for session, prompt in zip(
                run.sessions, run.prompt_ids(input_ids[:, :-1]), strict=True
            ):
                session.prompt_ids = prompt
        ids, z, ended = input_ids[:, -1].tolist(), rows.cpu().numpy(), stopped.tolist()
        for row, session in enumerate(run.sessions):
            if session.alarm is None:
                continue
            why = session.halted or self._sessions.follow(session, ids[row], z[row])
            if why and not ended[row]:
                run.halt(row)
            elif ended[row]:
                session.halted = None  # it ended by itself with this token
            if why or ended[row]:
                session.alarm = None

    def _followed(self, run: Run, generate: Callable[[], Any]) -> Any:
        """Generate with the hooks of this thread writing into `run`, and close it.

        A call that Transformers refused before its loop began, for a misspelt argument, say, was no
        response and gets no report.
        """
        try:
            with self._hooks.writing(run):
                output = generate()
        except BaseException:
            if run.begun or run.skipped:
                self._close(run, "cancelled")
            else:
                self._forget(run)
            raise
        self._close(run)
        return output

    def _close(self, run: Run, finish: Finish | None = None) -> None:
        """Report every sequence of a run, once."""
        if run.closed:
            return
        run.closed = True
        with self._sessions.guarded(run.sessions[0]):
            run.settle()
        for session in run.sessions:
            self._sessions.close(session, finish or run.finish(session))
        self._hooks.end(run)

    @contextmanager
    def _inside(self, outer: Run, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Handle a generate inside a generate.

        If the outer one counts tokens itself, the inner one is silent, and so is one that the
        caller's own code starts, possibly before the first token (a streamer is shown the prompt).
        If the outer one only delegates, the inner one counts for it.
        """
        delegates = outer.tape is None and not outer.aside
        if delegates:
            self._note_loop(outer, arguments)
        with self._hooks.writing(outer if delegates else None):
            yield

    def _note_loop(self, run: Run, arguments: Mapping[str, Any]) -> None:
        """Note an assistant that proposes tokens; skip a loop that is not Transformers'."""
        if arguments.get("assistant_model") is not None:
            run.assistant = arguments["assistant_model"]
        if loop := foreign_loop(arguments):
            self._skip(run, loop)

    def _skip(self, run: Run, mode: str) -> None:
        """Refuse a generation that cannot be read, or let it run unread, as the policy says."""
        run.skipped = True
        with self._refusing(run):
            for session in run.sessions:
                self._sessions.skip(session, mode)

    @contextmanager
    def _refusing(self, run: Run) -> Iterator[None]:
        """Forget the sessions of a run that is refused in this block."""
        try:
            yield
        except BaseException:
            self._forget(run)
            raise

    def _forget(self, run: Run) -> None:
        """Drop the sessions of a run without a report."""
        run.closed = True
        for session in run.sessions:
            self._sessions.drop(session)
