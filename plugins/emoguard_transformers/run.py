"""One call of `generate`: what its hooks wrote, committed token by token, still on the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emoguard.session import Session

if TYPE_CHECKING:
    from emoguard.identity import ModelIdentity
    from emoguard.records import Finish, Request


@dataclass
class Run:
    """The state of one `generate`: a batch of sequences that advance together.

    `pending` (layers, rows, labels) is what the hooks write into; a commit sums it over layers into
    one row per sequence and sets it to NaN, so that a hook that does not fire is seen. Nothing here
    waits for the device until the run is read.
    """

    requests: Request | Sequence[Request]
    identity: ModelIdentity
    thinking: tuple[int, int] | None
    batch: int = 1
    assistant: Any = None
    pending: Any = None
    fault: str | None = None
    skipped: str | None = None
    seconds: float = 0.0
    closed: bool = False
    prompt: Any = None
    max_length: int | None = None
    eos: frozenset[int] = frozenset()
    _rows: list[Any] = field(default_factory=list)
    _tokens: list[Any] = field(default_factory=list)
    _alive: list[Any] = field(default_factory=list)

    @property
    def reading(self) -> bool:
        """Return whether the hooks have somewhere to write."""
        return self.pending is not None

    def commit(self, input_ids: Any, done: Any) -> None:
        """Keep one row for each sequence whose token was just chosen.

        `input_ids` ends with those tokens; `done` says which sequences end with them. A sequence
        that ended earlier is only being padded: its rows are dropped when the run is read.
        """
        start = time.perf_counter()
        if self.prompt is None:
            self.prompt = input_ids[:, :-1]
        alive = self._alive[-1][1] if self._alive else torch.ones_like(done)
        self._rows.append(self.pending.sum(dim=0))
        self._tokens.append(input_ids[:, -1])
        self._alive.append((alive, alive & ~done))
        self.pending.fill_(torch.nan)
        self.seconds += time.perf_counter() - start

    def fail(self, error: BaseException) -> None:
        """Remember what broke first; the hooks stop reading, generation goes on."""
        self.fault = self.fault or f"{type(error).__name__}: {error}"

    def sessions(self, labels: int) -> list[tuple[Session, Finish]]:
        """Copy everything to the host and return one session per sequence, with how it ended."""
        steps = min(len(self._rows), len(self._tokens), len(self._alive))
        if not steps:
            return [(self._session(0, request), "unknown") for request in self._requests(1)]
        rows = torch.stack(self._rows[:steps]).float().cpu().numpy()
        tokens = torch.stack(self._tokens[:steps]).cpu().numpy()
        alive = torch.stack([before for before, _ in self._alive[:steps]]).cpu().numpy()
        prompt = self.prompt.cpu().numpy()
        found = []
        for row, request in enumerate(self._requests(rows.shape[1])):
            session = self._session(row, request, prompt[row].tolist())
            for step in np.flatnonzero(alive[:, row]):
                session.commit(int(tokens[step, row]), rows[step, row])
            found.append((session, self._finish(session.token_ids, prompt.shape[1])))
        return found

    def _requests(self, rows: int) -> Sequence[Request]:
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
        )

    def _finish(self, token_ids: Sequence[int], prompt: int) -> Finish:
        at_limit = self.max_length is not None and prompt + len(token_ids) >= self.max_length
        if at_limit and token_ids[-1] not in self.eos:
            return "length"
        return "stop"
