"""Holds the state of one call of `generate`: its sequences, their ends, the tape of their rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from emoguard_torch.steer import Batch
from emoguard_torch.tape import Tape

from emoguard.records import Finish, Request
from emoguard.runtime.session import Session
from emoguard_transformers.prompts import Prompts


@dataclass(eq=False)
class Run:
    """The state of one `generate`: a batch of sequences that advance together.

    `sessions` has one session per sequence, whose slot in the `tape` is its row in the batch.
    Nothing here waits for the device until the run is settled.
    """

    requests: Request | Sequence[Request]
    batch: int = 1
    positions: int = 0
    sessions: list[Session] = field(default_factory=list)
    assistant: Any = None
    prompts: Prompts | None = None
    begun: bool = False
    """Whether the loop that chooses tokens was reached."""
    tape: Tape | None = None
    steering: Batch | None = None
    failed: bool = False
    steering_failed: bool = False
    skipped: bool = False
    seconds: float = 0.0
    closed: bool = False
    aside: bool = False
    places: None = None
    _halts: dict[int, int] = field(default_factory=dict)
    _stops: list[torch.Tensor] = field(default_factory=list)
    _stopped: dict[int, bool] = field(default_factory=dict)
    _committed: tuple[int, Any] = (0, None)
    _settled: int = 0

    @property
    def steps(self) -> int:
        """Return how many tokens were chosen so far."""
        return self._committed[0]

    def add(self, session: Session) -> None:
        """Take in the session of one more sequence."""
        session.held = self
        self.sessions.append(session)

    @contextmanager
    def stand_aside(self) -> Iterator[None]:
        """Pause the hooks in this block: the caller's own code may run the model.

        Between a pass and its commit, such a write would be taken for the pass's own.
        """
        outer, self.aside = self.aside, True
        try:
            yield
        finally:
            self.aside = outer

    def commit(self, input_ids: Any, stopped: Any) -> Any:
        """Keep one row for each sequence whose token was just chosen; return the rows.

        `input_ids` ends with those tokens; `stopped` marks the sequences that ended by themselves.
        A sequence that ended earlier is only being padded: its rows are dropped when the run is
        settled. Without a tape (after a fault) tokens are counted, and there are no rows.
        """
        start = time.perf_counter()
        if len(stopped) != len(self.sessions):
            raise ValueError(f"wanted {len(self.sessions)} sequences, got {len(stopped)}")
        self._stops.append(stopped)
        rows = None if self.tape is None else self.tape.take()
        if self.steering is not None and self.steering.lead is not None:
            self.steering.lead.advance(input_ids[:, -1])
        # Both at once: another thread may be reading.
        self._committed = self.steps + 1, input_ids
        self.seconds += time.perf_counter() - start
        return rows

    def halt(self, row: int) -> None:
        """End a sequence with the token that was just committed, unless it was ended before."""
        self._halts.setdefault(row, self.steps)

    def settle(self) -> None:
        """Copy everything committed since the last call to the sessions.

        May be called while another thread commits.
        """
        steps, ids = self._committed
        if steps == self._settled:
            return
        ids = ids.cpu().numpy()
        stops = torch.stack(self._stops[:steps]).cpu().numpy()
        rows, moves = self.tape.read(steps) if self.tape is not None else (stops[:0], stops[:0])
        prompt = ids.shape[1] - steps
        prompts = self.prompt_ids(ids[:, :prompt])
        for row, session in enumerate(self.sessions):
            natural = np.flatnonzero(stops[:, row])
            end = min(natural[0] + 1 if len(natural) else steps, self._halts.get(row, steps))
            self._stopped[row] = len(natural) > 0 and bool(natural[0] < end)
            session.prompt_ids = prompts[row]
            session.seconds = self.seconds / len(self.sessions)  # the reports of a batch add up
            session.rows = list(rows[:end, row]) if len(rows) else []
            session.moves = list(map(tuple, moves[:end, row].tolist())) if moves.size else []
            # Last: a reading has as many rows as there are tokens.
            session.token_ids = ids[row, prompt : prompt + end].tolist()
        self._settled = steps

    def prompt_ids(self, ids: Any) -> list[list[int]]:
        """Return the prompt tokens each row attends to; `ids` are those `generate` begins with."""
        whole: list[list[int]] = ids.tolist()
        return whole if self.prompts is None else self.prompts.tokens(len(whole))

    def finish(self, session: Session) -> Finish:
        """Return how a sequence ended, as far as the run is settled."""
        if self._settled < self.steps:
            return "error"
        if not self.steps:
            return "unknown"
        if self._stopped[self.sessions.index(session)]:
            return "stop"
        return "halted" if session.halted else "length"
