"""Keeps positions computed under steering from becoming the prefix of another turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emoguard.runtime.session import Session

NO_TOKEN = -1
"""An id that no prompt has."""


class Prefix:
    """The positions in the cache of `llm` that a session computed steered, from `first` on.

    `Llama.generate` keeps the longest prefix of a prompt that its cache holds. `owner` is the
    session, None while everything is unsteered.
    """

    def __init__(self, llm: Any) -> None:
        self.owner: Session | None = None
        self._first = 0
        self._llm = llm

    def note(self, session: Session, first: int) -> None:
        """Remember the first position that a session computes under steering."""
        if self.owner is None:
            self.owner, self._first = session, first

    def drop(self, session: Session | None) -> None:
        """Forget every position that `session` computed steered.

        Called when its generation is over, in its own thread: one that continues unwatched needs
        them.
        """
        if self.owner is None or self.owner is not session:
            return
        llm, first = self._llm, self._first
        if llm.ctx is not None and llm.n_tokens > first:
            taken = session.closed and llm.input_ids[first] != NO_TOKEN
            if not taken:
                self._cut(first)
        self.owner = None

    def hide(self) -> None:
        """Hide them from prompts as a prefix while their generation, closed here, continues."""
        if self.owner is not None:
            self._llm.input_ids[self._first : self._llm.n_tokens] = NO_TOKEN

    def hide_late(self, start: int) -> None:
        """Hide the positions from `start` on of a generation that was closed meanwhile."""
        if self.owner is not None and self.owner.closed and start <= self._first:
            self.hide()

    def save_state(self, original: Callable[[], Any]) -> Any:
        """Save the state as far as it is unsteered: the rest is computed again after loading."""
        state = original()
        if self.owner is not None:
            state.n_tokens = min(state.n_tokens, self._first)
            state.scores = state.scores[: state.n_tokens]
        return state

    def _cut(self, first: int) -> None:
        """Forget every position from `first` on."""
        self._llm.n_tokens = first
        # A prompt that ends just there would be sampled from the logits of the removed positions.
        self._llm._requires_eval = True  # noqa: SLF001
        if not self._llm._ctx.kv_cache_seq_rm(-1, first, -1):  # noqa: SLF001
            # A recurrent state cannot be cut: all of it goes.
            self._llm.reset()
            self._llm._ctx.kv_cache_clear()  # noqa: SLF001
