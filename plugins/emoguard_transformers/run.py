"""One call of `generate`: what its hooks wrote, committed token by token, still on the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emoguard.live import LiveAlarm
from emoguard.session import Session
from emoguard_transformers.prompts import Prompts
from emoguard_transformers.steer import MOVES, Batch

if TYPE_CHECKING:
    from emoguard.identity import ModelIdentity
    from emoguard.phases import Thinking
    from emoguard.records import Finish, Request
    from emoguard.steering import Steering

BLOCK = 256
"""Tokens for which room is made at a time."""


@dataclass(eq=False)
class Run:
    """The state of one `generate`: a batch of sequences that advance together.

    `pending` (layers, rows, labels) is what the hooks write into; a commit sums it over layers into
    one row per sequence and sets it to NaN, so that a hook that does not fire is seen. The same
    goes for what steering wrote. Nothing here waits for the device until the run is read.
    """

    requests: Request | Sequence[Request]
    identity: ModelIdentity
    thinking: Thinking | None
    batch: int = 1
    positions: int = 0
    prompts: Prompts | None = None
    assistant: Any = None
    plans: list[Steering | None] = field(default_factory=list)
    decode: Callable[[Sequence[int]], str] | None = None
    pending: Any = None
    steering: Batch | None = None
    fault: str | None = None
    steering_fault: str | None = None
    skipped: str | None = None
    halted: str | None = None
    halts: dict[int, str] = field(default_factory=dict)
    alarms: list[LiveAlarm | None] | None = None
    seconds: float = 0.0
    closed: bool = False
    aside: bool = False
    _committed: tuple[int, Any] = (0, None)
    _blocks: list[tuple[Any, Any, Any]] = field(default_factory=list)

    @property
    def reading(self) -> bool:
        """Return whether the hooks have somewhere to write."""
        return self.pending is not None

    @property
    def steps(self) -> int:
        """Return how many tokens were chosen so far."""
        return self._committed[0]

    @contextmanager
    def stand_aside(self) -> Iterator[None]:
        """Have the hooks do nothing in this block: the caller's own code may run the model.

        Between a pass and its commit, what that would write would be taken for the pass's.
        """
        outer, self.aside = self.aside, True
        try:
            yield
        finally:
            self.aside = outer

    def commit(self, input_ids: Any, stopped: Any) -> None:
        """Keep one row for each sequence whose token was just chosen.

        `input_ids` ends with those tokens; `stopped` says which sequences ended by themselves with
        them. A sequence that ended earlier is only being padded: its rows are dropped when the run
        is read. Without a reading (after a fault) the tokens are counted and their rows are NaN.
        """
        start = time.perf_counter()
        block, step = divmod(self.steps, BLOCK)
        if block == len(self._blocks):
            self._blocks.append(self._new_block(stopped))
        rows, moves, stops = self._blocks[block]
        stops[step].copy_(stopped)
        if self.pending is not None:
            torch.sum(self.pending, 0, out=rows[step])
            self.pending.fill_(torch.nan)
        if self.steering is not None:
            torch.sum(self.steering.moves, 0, out=moves[step])
            self.steering.moves.fill_(torch.nan)
            if self.steering.lead is not None:
                self.steering.lead.advance(input_ids[:, -1])
        # Both at once: another thread may be reading.
        self._committed = self.steps + 1, input_ids
        if self.alarms is not None and self.fault is None:
            for row in self._crossing(input_ids, rows[step], stopped):
                stops[step, row] = True
        self.seconds += time.perf_counter() - start

    def _crossing(self, input_ids: Any, rows: Any, stopped: Any) -> list[int]:
        """Return the sequences that are to end here; only where an alarm follows them is waited.

        One that has ended is followed no more: what comes after is padding.
        """
        assert self.alarms is not None
        ids, z = input_ids[:, -1].cpu().tolist(), rows.cpu().numpy()
        ended = []
        for row, has_stopped in enumerate(stopped.cpu().tolist()):
            alarm = self.alarms[row]
            why = alarm.update(ids[row], z[row]) if alarm is not None else None
            if why and not has_stopped:
                self.halts[row] = why
                ended.append(row)
            if why or has_stopped:
                self.alarms[row] = None
        return ended

    def _new_block(self, stopped: Any) -> tuple[Any, Any, Any]:
        """Return room for rows, moves and stops of the next tokens: few tensors for many tokens.

        Never inference tensors, whatever mode the caller generates in.
        """
        with torch.inference_mode(mode=False):
            like = self.pending if self.pending is not None else stopped.float()[None, :, None]
            batch = like.shape[1]
            rows = like.new_full((BLOCK, *like.shape[1:]), torch.nan)
            moves = like.new_full((BLOCK if self.steering else 0, batch, MOVES), torch.nan)
            return rows, moves, stopped.new_zeros((BLOCK, batch)).to(rows.device)

    def fail(self, error: BaseException) -> None:
        """Remember what broke first; the hooks stop reading, generation goes on."""
        self.fault = self.fault or f"{type(error).__name__}: {error}"

    def fail_steering(self, error: BaseException) -> None:
        """Remember what broke steering first: from here on nothing is steered."""
        self.steering_fault = self.steering_fault or f"{type(error).__name__}: {error}"

    def sessions(self, labels: int) -> list[tuple[Session, Finish]]:
        """Copy everything to the host and return one session per sequence, with how it ended.

        May be called while another thread commits.
        """
        steps, ids = self._committed
        if not steps:
            return [(session, "unknown") for session in self.empty_sessions()]
        rows, moves, stops = (
            np.concatenate([block[part].cpu().numpy() for block in self._blocks])[:steps]
            for part in range(3)
        )
        rows = np.broadcast_to(rows, (*rows.shape[:2], labels))
        ids = ids.cpu().numpy()
        prompt = ids.shape[1] - steps
        prompts = self.prompt_ids(ids[:, :prompt])
        found: list[tuple[Session, Finish]] = []
        for row, request in enumerate(self.each_request(rows.shape[1])):
            session = self._session(row, request, prompts[row])
            if session.steering:
                session.moves = list(map(tuple, moves[:, row].tolist()))
            stopped = np.flatnonzero(stops[:, row])
            end = stopped[0] + 1 if len(stopped) else steps
            for step in range(end):
                session.commit(int(ids[row, prompt + step]), rows[step, row])
            session.seconds /= rows.shape[1]  # so that the reports of a batch add up
            found.append((session, self._finish(row, stopped=len(stopped) > 0)))
        return found

    def prompt_ids(self, ids: Any) -> list[list[int]]:
        """Return the tokens each row attends to first; `ids` are those `generate` begins with."""
        whole: list[list[int]] = ids.tolist()
        return whole if self.prompts is None else self.prompts.tokens(len(whole))

    def empty_sessions(self) -> list[Session]:
        """Return one session without a token for each request."""
        return [self._session(row, each) for row, each in enumerate(self.each_request(1))]

    def _finish(self, row: int, *, stopped: bool) -> Finish:
        if row in self.halts:
            return "halted"
        if stopped:
            return "stop"
        return "halted" if self.halted else "length"

    def each_request(self, rows: int) -> Sequence[Request]:
        """Return one request per sequence; one for all of them gets a number for each."""
        if isinstance(self.requests, Sequence):
            return self.requests
        if rows == 1:
            return [self.requests]
        return [replace(self.requests, id=f"{self.requests.id}-{row}") for row in range(rows)]

    def _session(self, row: int, request: Request, prompt_ids: Sequence[int] = ()) -> Session:
        return Session(
            request=request,
            identity=self.identity,
            backend="transformers",
            prompt_ids=prompt_ids,
            thinking=self.thinking,
            seconds=self.seconds,
            fault=self.fault,
            skipped=self.skipped,
            halted=self.halts.get(row, self.halted),
            steering=self.plans[row] if self.plans else None,
            steering_fault=self.steering_fault,
            decode=self.decode,
        )
