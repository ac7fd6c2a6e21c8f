"""Defines the seam to a runtime: the protocols of a plug-in's joint and of the sessions it calls.

A plug-in is a module with two functions, `open_residuals(model, **options)` and
`joint(model, **options)`; `emoguard.runtime.watch.Watch` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from emoguard.probe.identity import ModelIdentity
from emoguard.probe.residuals import Residuals
from emoguard.records import Finish, Report, Request
from emoguard.runtime.phases import Thinking
from emoguard.runtime.session import Session
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard.steering.plan import Plan

Part = Literal["reading", "steering"]
"""The part of EmoGuard that failed."""


class Sessions(Protocol):
    """The calls of a joint while its model generates: the runtime's half of a watch.

    An error in EmoGuard reaches the generation only from `steering`, `open` and `skip`, which
    refuse. Everything may be called from any thread.
    """

    site: Site
    """The guard on the model file as it was at attach: rows are in its scale."""

    def steering(self, plan: Plan | None) -> Steering | None:
        """Return the steering of a generation by this plan if it started now; raise if refused."""
        ...

    def open(
        self,
        request: Request,
        prompt_ids: Sequence[int] = (),
        identity: ModelIdentity | None = None,
    ) -> Session:
        """Start the session of one sequence: `steering` is the plan laid for it, or None.

        `identity` is that of the model now, by default as the joint identifies it.
        """
        ...

    def commit(
        self,
        session: Session,
        token: int,
        row: NDArray[np.float32],
        move: tuple[float, float, float] | None = None,
    ) -> str | None:
        """Keep the row (labels,) that a token was chosen from; return why to stop, or None.

        `move` is what steering did to that residual: dose, clipped, faulted.
        """
        ...

    def follow(self, session: Session, token: int, row: NDArray[np.float32]) -> str | None:
        """Show a token to the live alarm; return why to stop, or None.

        `commit` does so itself. A runtime that leaves rows on its device until `Joint.settle` calls
        this instead, for sessions that have an alarm.
        """
        ...

    def skip(self, session: Session, mode: str) -> None:
        """Run a mode without one reading per token unread, or refuse it, as the policy says."""
        ...

    def fail(
        self,
        session: Session | None,
        error: BaseException,
        part: Part = "reading",
    ) -> None:
        """Note a failure: log it once and report it; the policy decides whether to go on.

        Raises an error that interrupts the thread, such as a signal's handler's.
        """
        ...

    def guarded(
        self, session: Session | None, part: Part = "reading"
    ) -> AbstractContextManager[None]:
        """Keep errors in this block from the generation: `fail` is called with them."""
        ...

    def closing(self, session: Session, finish: Finish = "length") -> AbstractContextManager[None]:
        """Close a session after this block, as cancelled if the generation in it broke off."""
        ...

    def close(self, session: Session, finish: Finish) -> Report | None:
        """Report a session; None if it was closed before."""
        ...

    def drop(self, session: Session) -> None:
        """Forget a session without a report: its generation was refused."""
        ...


class Joint(Protocol):
    """Joins one model object of a runtime to a watch."""

    model: Any
    """The object that users generate with; one watch at a time marks it."""
    thinking: Thinking | None
    """The marks around reasoning, if the vocabulary has any."""

    @property
    def backend(self) -> str:
        """Return the runtime and the path that is read on, as reports name them."""
        ...

    def identity(self, *, anew: bool = False) -> ModelIdentity:
        """Return the identity of the model now; called when a response begins, so cheap.

        It compares marks, and reads content if one changed; `anew` always reads content. Never
        raises once the joint is made.
        """
        ...

    def hooked(self, site: Site) -> AbstractContextManager[Residuals]:
        """Read the model in this block; yields the door through which the witness is checked.

        It goes through the same entry as generation. At the end the model is as it was.
        """
        ...

    def wrapped(self, sessions: Sessions) -> AbstractContextManager[None]:
        """Open and close a session around every generation that starts in this block."""
        ...

    def refuse(self, steering: Steering) -> None:
        """Raise EmoGuardError if this runtime cannot apply the steering."""
        ...

    def settle(self, session: Session) -> None:
        """Fill in the rows, moves and tokens of a session that are still on their way."""
        ...

    def release(self, session: Session) -> None:
        """Free the runtime's resources of a session, which is closed now."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, "" if nothing here can decode them."""
        ...


class Plugin(Protocol):
    """A module for one runtime, named by the entry-point group `emoguard.plugins`."""

    def open_residuals(self, model: Any, **options: Any) -> Residuals:
        """Return the offline door into `model`."""
        ...

    def joint(self, model: Any, **options: Any) -> Joint:
        """Return the joint to `model`, with nothing changed yet."""
        ...
