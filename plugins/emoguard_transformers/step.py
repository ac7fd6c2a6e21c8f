"""Describes one pass of continuous batching: the sequences in its packed row, their readings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from emoguard_torch.packed import Places, Span
from emoguard_torch.steer import Batch
from emoguard_torch.tape import Tape
from numpy.typing import NDArray

from emoguard.records import Finish
from emoguard.runtime.attention import sink_length
from emoguard.runtime.session import Session
from emoguard.steering.intervention import Steering

Move = tuple[float, float, float]


@dataclass(eq=False)
class Slot:
    """One sequence of a continuous batch, from its request to its last output.

    `children` are the ids of the sequences that are split off it once its prompt is computed;
    `has_run` if it was part of a pass. `finish` is how it ends, as far as known.
    """

    session: Session
    children: tuple[str, ...] = ()
    has_run: bool = False
    finish: Finish = "cancelled"

    def settle(self) -> None:
        """Do nothing: rows come home after each pass."""

    def steered(self) -> int | None:
        """Return the first position of the sequence that its plan moves, None without a plan.

        It is the same in every pass, also when positions are computed once more.
        """
        session = self.session
        if session.steering is None or session.steering_fault is not None:
            return None
        prompt = len(session.prompt_ids)
        spared = sink_length(session.prompt_ids)
        if spared == prompt:
            spared = sink_length([*session.prompt_ids, *session.token_ids])
        return max(spared, 0 if session.steering.plan.prompt else prompt - 1)


@dataclass(eq=False)
class Step:
    """One pass over a packed row in which the sequences of `slots` have the tokens of `places`.

    Hooks treat it as the run of their thread. Sequences without a slot are not in it.
    """

    slots: list[Slot]
    places: Places
    tape: Tape | None = None
    steering: Batch | None = None
    failed: bool = False
    steering_failed: bool = False
    steps: int = 0
    aside: bool = False
    closed: bool = False

    @classmethod
    def of(cls, batch: Iterable[Any], slots: Mapping[str, Slot], device: Any) -> Step:
        """Return the pass over a `batch` of scheduled requests, in the order of the row."""
        start, present, spans = 0, [], []
        for scheduled in batch:
            state, length = scheduled.state, scheduled.query_length
            slot = slots.get(state.request_id)
            if slot is not None and slot.session.skipped is None:
                slot.has_run = True
                past = state.position_offset - length  # it was set forward already
                spans.append(Span(start, past, length, scheduled.has_new_token, slot.steered()))
                present.append(slot)
            start += length
        return cls(present, Places.of(spans, device))

    @property
    def sessions(self) -> list[Session]:
        """Return the sessions of all sequences in this pass."""
        return [slot.session for slot in self.slots]

    @property
    def plans(self) -> list[Steering]:
        """Return the steering of those sequences that have a plan in force, in order."""
        pairs = zip(self.sessions, self.places.spans, strict=True)
        return [s.steering for s, span in pairs if s.steering and span.steered is not None]

    def read(self) -> dict[Slot, tuple[NDArray[np.float32], Move | None]]:
        """Return the row, and the move of those that are steered, of each sequence that is read.

        Raises:
            ValueError: this pass had no room to write to.

        """
        if self.tape is None:
            raise ValueError("a pass of continuous batching was not laid out")
        rows, moves = self.tape.pass_home()
        spans = zip(self.slots, self.places.spans, strict=True)
        chosen = [(slot, span) for slot, span in spans if span.is_read]
        numbers = self.places.moves()
        return {
            slot: (row, None if span.steered is None else _move(moves, number))
            for (slot, span), row, number in zip(chosen, rows, numbers, strict=True)
        }


def _move(moves: NDArray[np.float32], number: int | None) -> Move:
    if number is None:
        return 0.0, 0.0, 0.0
    dose, clipped, faulted = moves[number].tolist()
    return dose, clipped, faulted
