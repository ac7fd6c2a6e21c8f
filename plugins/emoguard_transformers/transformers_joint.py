"""Joins a Transformers model to a watch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emoguard.probe.identity import ModelIdentity
from emoguard.probe.residuals import Residuals
from emoguard.runtime.joint import Part, Sessions
from emoguard.runtime.session import Session
from emoguard.runtime.tokenizer import find_thinking
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard_transformers.batching import Batching
from emoguard_transformers.door import Door
from emoguard_transformers.generate import Generate
from emoguard_transformers.held import Held
from emoguard_transformers.hooks import Hooks
from emoguard_transformers.run import Run
from emoguard_transformers.step import Step

log = logging.getLogger("emoguard")

NO_TEXT = (
    "the policy follows notice profiles, but attach() was given no tokenizer: claims in a response "
    "are not found, and its reasoning is not told apart; pass tokenizer="
)
"""A loss that would otherwise go unnoticed."""


class TransformersJoint:
    """See `emoguard.runtime.joint.Joint`. `hooks` are on the model while it is watched."""

    backend = "transformers"

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.model = model
        self.thinking = find_thinking(tokenizer)
        self.hooks: Hooks
        self._tokenizer = tokenizer
        self._held = Held(model, tokenizer)
        self._door = Door(model, tokenizer, self._held.identity())
        self._sessions: Sessions | None = None

    def identity(self, *, anew: bool = False) -> ModelIdentity:
        """Return the identity of the model now: other adapters or weights are another file."""
        return self._held.identity(anew=anew)

    @contextmanager
    def hooked(self, site: Site) -> Iterator[Residuals]:
        """Put hooks on the blocks; the door goes through hooks of its own on the same blocks."""
        if self._tokenizer is None and site.policy.notices.followed():
            log.warning(NO_TEXT)
        layers = site.readout.layers
        self._door.residuals(site.probe.witness.token_ids[:1].tolist(), layers)  # finds the devices
        devices = [self._door.devices[layer] for layer in layers]
        self.hooks = Hooks(self.model, site, devices, self._fail)
        try:
            with self.hooks.added(), self._held.listening():
                yield self._door
        finally:
            # Otherwise the model would stay in memory until the next garbage collection.
            del self.hooks

    @contextmanager
    def wrapped(self, sessions: Sessions) -> Iterator[None]:
        """Follow `generate` and continuous batching."""
        self._sessions = sessions
        try:
            with (
                Generate(self.model, sessions, self.hooks).wrapped(),
                Batching(self.model, sessions, self.hooks, self._fail).wrapped(),
            ):
                yield
        finally:
            self._sessions = None

    def refuse(self, steering: Steering) -> None:
        """Do nothing: every block can be steered here."""

    def settle(self, session: Session) -> None:
        """Copy the rows of a session's batch from the device."""
        session.held.settle()

    def release(self, session: Session) -> None:
        """Do nothing: buffers are shared by a batch, and come back when its `generate` ends."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, "" without a tokenizer."""
        if self._tokenizer is None:
            return ""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _fail(self, run: Run | Step, error: BaseException, part: Part) -> None:
        if part == "reading":
            run.failed = True
        else:
            run.steering_failed = True
        if self._sessions is not None:  # otherwise the watch was detached meanwhile
            for session in run.sessions:
                if part == "reading" or session.steering is not None:
                    self._sessions.fail(session, error, part)
