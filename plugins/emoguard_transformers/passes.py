"""Follows the passes of one batch processor: lays each out, runs it with hooks, takes its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from emoguard.runtime.joint import Sessions
from emoguard.runtime.patch import attribute
from emoguard_transformers.hooks import Fail, Hooks
from emoguard_transformers.step import Slot, Step

Plain = Callable[..., Any]


class Passes:
    """Follows the passes of `processor` while its methods are wrapped.

    `slots` has the slot of each request by its id.
    """

    def __init__(
        self,
        sessions: Sessions,
        hooks: Hooks,
        fail: Fail,
        processor: Any,
        slots: Mapping[str, Slot],
    ) -> None:
        self._processor = processor
        self._slots = slots
        self._sessions = sessions
        self._hooks = hooks
        self._fail = fail
        self._step: Step | None = None

    def wrap(self, undo: ExitStack) -> None:
        """Wrap the processor's methods until `undo`."""
        for name, wrap in (("_generation_step", self._running), ("update_batch", self._updating)):
            plain = getattr(self._processor, name)
            undo.enter_context(attribute(self._processor, name, wrap(plain)))

    def _running(self, plain: Plain) -> Plain:
        def generation_step(*args: Any, **kwargs: Any) -> Any:
            self._step = step = self._laid()
            with self._hooks.writing(step):
                return plain(*args, **kwargs)

        return generation_step

    def _updating(self, plain: Plain) -> Plain:
        def update_batch(*args: Any, **kwargs: Any) -> Any:
            step, self._step = self._step, None
            if step is not None:
                try:
                    self._commit(step)
                except Exception as error:  # noqa: BLE001  (the responses must not notice)
                    self._fail(step, error, "reading")
            return plain(*args, **kwargs)

        return update_batch

    def _laid(self) -> Step | None:
        """Return the pass that is about to run, None if no sequence in it is read."""
        try:
            batch = self._processor.inputs_and_outputs.requests_in_batch
            step = Step.of(batch, self._slots, self._hooks.devices[-1])
        except Exception as error:  # noqa: BLE001  (the responses must not notice)
            for slot in list(self._slots.values()):
                self._sessions.fail(slot.session, error)
            return None
        if not step.slots:
            return None
        try:
            self._hooks.lay(step)
        except Exception as error:  # noqa: BLE001
            self._fail(step, error, "reading")
        return step

    def _commit(self, step: Step) -> None:
        """Keep the rows of the tokens just chosen; end the sequences that an alarm stops."""
        nothing = np.full(len(self._sessions.site.read), np.nan, np.float32)
        try:
            rows = step.read()
        except Exception as error:  # noqa: BLE001
            self._fail(step, error, "reading")
            rows = {}
        present = set(step.slots)
        for state, token in self._chosen():
            slot = self._slots.get(state.request_id)
            if slot is None or slot not in present:
                continue
            stops = token in state._eos_token_ids  # noqa: SLF001
            left = state._new_tokens_limit - state.generated_len()  # noqa: SLF001
            if not stops and left <= 0:
                slot.finish = "length"  # the batch drops this token
                continue
            row, move = rows.get(slot, (nothing, None))
            why = self._sessions.commit(slot.session, token, row, move)
            if stops:
                slot.finish, slot.session.halted = "stop", None
            elif why:
                slot.finish = "halted"
                state._new_tokens_limit = state.generated_len() + 1  # noqa: SLF001
            elif left == 1:
                slot.finish = "length"

    def _chosen(self) -> Iterator[tuple[Any, int]]:
        """Yield the state of each request a token was chosen for, and the token."""
        batch, tokens, _ = self._processor.inputs_and_outputs.prepare_batch_update()
        states = [scheduled.state for scheduled in batch if scheduled.has_new_token]
        return zip(states, tokens, strict=False)
