"""Listens to Transformers' own generation loop: its criteria, processors and streamer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteriaList,
)

from emoguard_transformers.run import Run

LIMITS = (MaxLengthCriteria, MaxTimeCriteria)
"""Criteria that cut a sequence off; any other ends it."""


class Criteria(StoppingCriteriaList):
    """The model's own stopping criteria; each verdict commits the token it was about.

    `generate` asks exactly once per chosen token, outside any compiled region. `commit` takes the
    run, the ids and which sequences stopped by themselves.
    """

    def __init__(self, inner: Any, run: Run, commit: Callable[[Run, Any, Any], None]) -> None:
        super().__init__(inner)
        self._run = run
        self._commit = commit

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return the sequences that are done; a limit cuts off, everything else is a stop."""
        cut = stopped = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        with self._run.stand_aside():
            for criterion in self:
                verdict = criterion(input_ids, scores, **kwargs)
                if isinstance(criterion, LIMITS):
                    cut = cut | verdict
                else:
                    stopped = stopped | verdict
        if not self._run.closed:
            self._commit(self._run, input_ids, stopped)
        done = cut | stopped
        for row, session in enumerate(self._run.sessions):
            if session.halted:
                done[row] = True
        return done


class Processors(LogitsProcessorList):
    """The logits processors; those of the caller may run the model themselves."""

    def __init__(self, inner: Any, run: Run) -> None:
        super().__init__(inner)
        self._run = run

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return the scores as processed."""
        with self._run.stand_aside():
            return super().__call__(input_ids, scores, **kwargs)


class Streamer:
    """Wraps the caller's streamer; `before_end` is called before it sees the end of the stream."""

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
