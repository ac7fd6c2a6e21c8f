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

BLOCK = 256
"""Tokens for which room is made at a time."""


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
    _steps: int = 0
    _ids: Any = None
    _blocks: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def reading(self) -> bool:
        """Return whether the hooks have somewhere to write."""
        return self.pending is not None

    def commit(self, input_ids: Any, stopped: Any) -> None:
        """Keep one row for each sequence whose token was just chosen.

        `input_ids` ends with those tokens; `stopped` says which sequences ended by themselves with
        them. A sequence that ended earlier is only being padded: its rows are dropped when the run
        is read. Without a reading (after a fault) the tokens are counted and their rows are NaN.
        """
        start = time.perf_counter()
        block, step = divmod(self._steps, BLOCK)
        if block == len(self._blocks):
            self._blocks.append(self._new_block(stopped))
        rows, stops = self._blocks[block]
        stops[step].copy_(stopped)
        if self.pending is not None:
            torch.sum(self.pending, 0, out=rows[step])
            self.pending.fill_(torch.nan)
        self._ids = input_ids
        self._steps += 1
        self.seconds += time.perf_counter() - start

    def _new_block(self, stopped: Any) -> tuple[Any, Any]:
        """Return room for the rows and stops of the next tokens: few tensors, however many tokens.

        Never inference tensors, whatever mode the caller generates in.
        """
        with torch.inference_mode(mode=False):
            like = self.pending if self.pending is not None else stopped.float()[None, :, None]
            rows = like.new_full((BLOCK, *like.shape[1:]), torch.nan)
            return rows, torch.zeros((BLOCK, *stopped.shape), dtype=torch.bool, device=rows.device)

    def fail(self, error: BaseException) -> None:
        """Remember what broke first; the hooks stop reading, generation goes on."""
        self.fault = self.fault or f"{type(error).__name__}: {error}"

    def sessions(self, labels: int) -> list[tuple[Session, Finish]]:
        """Copy everything to the host and return one session per sequence, with how it ended.

        May be called while another thread commits.
        """
        steps, ids = self._steps, self._ids
        if not steps:
            return [(self._session(0, request), "unknown") for request in self._requests(1)]
        rows = np.concatenate([rows.cpu().numpy() for rows, _ in self._blocks])[:steps]
        stops = np.concatenate([stops.cpu().numpy() for _, stops in self._blocks])[:steps]
        rows = np.broadcast_to(rows, (*rows.shape[:2], labels))
        ids = ids.cpu().numpy()
        prompt = ids.shape[1] - steps
        found: list[tuple[Session, Finish]] = []
        for row, request in enumerate(self._requests(rows.shape[1])):
            session = self._session(row, request, ids[row, :prompt].tolist())
            stopped = np.flatnonzero(stops[:, row])
            end = stopped[0] + 1 if len(stopped) else steps
            for step in range(end):
                session.commit(int(ids[row, prompt + step]), rows[step, row])
            session.seconds /= rows.shape[1]  # so that the reports of a batch add up
            found.append((session, "stop" if len(stopped) else "length"))
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
