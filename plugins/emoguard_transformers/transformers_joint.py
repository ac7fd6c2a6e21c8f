"""Joins a Transformers model to a watch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from emoguard.probe.identity import ModelIdentity
from emoguard.probe.residuals import Residuals
from emoguard.runtime import marks
from emoguard.runtime.joint import Part, Sessions
from emoguard.runtime.marks import Marks
from emoguard.runtime.phases import Thinking
from emoguard.runtime.session import Session
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
"""What is silently lost otherwise."""


class TransformersJoint:
    """See `emoguard.joint.Joint`. `hooks` are on the model while it is watched."""

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
        """Return which file the model holds now: other adapters or weights, other file."""
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
            # Else the model would wait for the collector, which is in no hurry to free memory.
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
        """Copy what hooks wrote for a session's batch from the device."""
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
        if self._sessions is not None:  # else the watch was detached meanwhile
            for session in run.sessions:
                if part == "reading" or session.steering is not None:
                    self._sessions.fail(session, error, part)


def find_thinking(tokenizer: Any) -> Thinking | None:
    """Return the marks of the tokenizer's model around its reasoning, None where none are known."""
    if tokenizer is None:
        return None
    templates = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(templates, Mapping):  # by name
        templates = "".join(map(str, templates.values()))
    return marks.find_thinking(
        tokenizer.get_vocab().get,
        str(templates),
        _renderer(tokenizer),
        _blank(tokenizer),
        _named(tokenizer),
    )


def _named(tokenizer: Any) -> Marks | None:
    """Return the marks in the tokenizer's response template, None unless it names two texts."""
    template = getattr(tokenizer, "response_template", None)
    fields = template.get("fields") if isinstance(template, Mapping) else None
    for name in ("reasoning_content", "thinking"):
        field = fields.get(name) if isinstance(fields, Mapping) else None
        if isinstance(field, Mapping):
            opening, closing = field.get("open"), field.get("close")
            if isinstance(opening, str) and isinstance(closing, str):
                return Marks((opening,), closing)
    return None


def _renderer(tokenizer: Any) -> Callable[..., str]:
    """Return what the tokenizer's chat template makes of messages."""
    return lambda messages, **switches: str(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **switches
        )
    )


def _blank(tokenizer: Any) -> Callable[[int], bool]:
    """Return what says of a token whether it is whitespace; nothing is if it cannot be decoded."""
    decode = getattr(tokenizer, "decode", None)
    if decode is None:
        return lambda _token: False
    return lambda token: not decode([token], skip_special_tokens=False).strip()
