"""Holds the run-time state of one generated sequence, and takes its request from the call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emoguard.policy.annotation import describe
from emoguard.records import Finish, Request
from emoguard.runtime.attention import only_token, sink_rows
from emoguard.runtime.live import LiveAlarm
from emoguard.runtime.phases import Marker, Thinking
from emoguard.runtime.reading import Reading, Steered
from emoguard.site import Site
from emoguard.steering.intervention import Steering

REQUEST: ContextVar[Request | None] = ContextVar("emoguard_request", default=None)
"""The request of the call in progress, for servers whose calls take no `emoguard=`."""


@dataclass(eq=False)
class Session:
    """One sequence from its first generated token to its report.

    Together with the sinks the only mutable thing in EmoGuard. `rows` holds one float32 array
    (labels,) per generated token; if `steering` is in force, `moves` one (3,): dose, clipped,
    faulted. `prompt_ids` are the tokens before the first generated one, from the first position on
    and without padding; empty while they are not known. `decode` makes text of token ids. `alarm`
    follows the tokens if the policy wants that.
    """

    request: Request
    site: Site
    backend: str
    prompt_ids: Sequence[int] = ()
    thinking: Thinking | None = None
    rows: list[NDArray[np.float32]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    steering: Steering | None = None
    moves: list[tuple[float, float, float]] = field(default_factory=list)
    seconds: float = 0.0
    fault: str | None = None
    steering_fault: str | None = None
    skipped: str | None = None
    halted: str | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    alarm: LiveAlarm | None = None
    held: Any = None
    """The joint's own state of this sequence."""
    closed: bool = False
    closing: threading.RLock = field(default_factory=threading.RLock)
    """Held while the session is closed. Re-entrant: an abandoned generator is closed by the garbage
    collector, in any thread and possibly while this very session is being closed."""

    def commit(
        self,
        token_id: int,
        row: NDArray[np.float32],
        move: tuple[float, float, float] | None = None,
    ) -> None:
        """Keep the reading that `token_id` was chosen from."""
        if move is not None:
            self.moves.append(move)
        self.rows.append(row)
        self.token_ids.append(token_id)

    def fail_steering(self, error: BaseException) -> None:
        """Remember the first failure of steering; the rest of the response is not steered."""
        self.steering_fault = self.steering_fault or f"{type(error).__name__}: {error}"

    def fail(self, error: BaseException) -> None:
        """Remember the first error; reading stops, generation continues."""
        self.fault = self.fault or f"{type(error).__name__}: {error}"

    def reading(self, finish: Finish) -> Reading:
        """Return the reading so far.

        May be called while another thread commits. A token whose row is missing has a NaN row.
        """
        token_ids = self.token_ids[:]  # taken first: these have their rows; later ones are cut off
        marker = Marker(self.prompt_ids, self.thinking)
        phases, reasoning = marker.all(token_ids, ended=self.closed)
        return Reading(
            identity=self.site.identity,
            backend=self.backend,
            rows=_stacked(self.rows, len(token_ids), len(self.site.read)),
            labels=self.site.read,
            token_ids=np.array(token_ids, np.int64),
            phases=phases,
            reasoning=reasoning,
            attention_sinks=sink_rows(self.prompt_ids, token_ids),
            finish=finish,
            seconds=self.seconds,
            fault=self.fault,
            skipped=self.skipped,
            halted=self.halted,
            steered=self._steered(len(token_ids)),
        )

    def prompt(self) -> tuple[Sequence[int], Thinking | None]:
        """Return the prompt's token ids, and the marks of reasoning that hold for it."""
        return self.prompt_ids, self.thinking

    @property
    def at_sink(self) -> bool:
        """Return whether the next token's row is read at an attention sink: it is not steered."""
        only = only_token(self.prompt_ids)
        return only is not None and all(token == only for token in self.token_ids)

    def text(self) -> str:
        """Return the text generated so far, "" if nothing can decode it."""
        return self.decode(self.token_ids) if self.decode is not None else ""

    def _steered(self, tokens: int) -> Steered | None:
        if self.steering is None:
            return None
        dose, clipped, faulted = _stacked(self.moves, tokens, 3).T
        return Steered(self.steering, dose, clipped > 0, faulted > 0, self.steering_fault)


def _stacked(rows: Sequence[ArrayLike], count: int, width: int) -> NDArray[np.float32]:
    """Return the first `count` rows, (count, width); NaN where there are fewer."""
    out = np.full((count, width), np.nan, np.float32)
    for index, row in enumerate(rows[:count]):
        out[index] = row
    return out


def take_request(kwargs: dict[str, Any]) -> Request:
    """Take `emoguard=` out of a call's keyword arguments, else the context's, else a fresh one.

    Raises:
        TypeError: anything but a Request, from either.

    """
    own = kwargs.pop("emoguard", None)
    if own is not None:
        return _checked("emoguard= takes", own)
    around = REQUEST.get()
    return Request() if around is None else _checked("the context variable REQUEST holds", around)


def _checked(place: str, value: Any) -> Request:
    if not isinstance(value, Request):
        raise TypeError(
            f"{place} an emoguard.Request, got {describe(value)}: write "
            "emoguard.Request(scores=…, plan=…, conversation=…)"
        )
    return value
