"""Holds the rows of one response as numpy arrays, outside the runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoguard.probe.identity import ModelIdentity
from emoguard.records import Finish, Reasoning
from emoguard.steering.intervention import Steering


@dataclass(frozen=True, eq=False)
class Steered:
    """The effect of steering on the tokens of one response, arrays of shape (tokens,).

    `dose` sums ‖h' - h‖/‖h‖ over the layers of the residual a token was chosen from; NaN where the
    intervention did not run. `clipped`: the bound cut it short at a layer. `faulted`: the residual
    was left alone at a layer because it, or the step, was not finite. `fault` is the error that
    ended steering, if any: later tokens were left alone.
    """

    steering: Steering
    dose: NDArray[np.float32]
    clipped: NDArray[np.bool_]
    faulted: NDArray[np.bool_]
    fault: str | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """The rows of one response, read by a runtime.

    `rows[t]` is the reading the t-th generated token was chosen from, float32 of shape (tokens,
    labels): z where a calibration fits, else the raw projection. `labels` name the columns.
    `token_ids` and `phases` (indices into `PHASES`) have shape (tokens,); `reasoning` is as in a
    `Report`. A row that the hook did not refresh is NaN. The first `attention_sinks` rows were read
    at an attention sink (`emoguard.runtime.attention`). `pieces` are the texts of the tokens, if
    the request asked for them. `seconds` is host time spent in EmoGuard's own code around the
    model's forward passes. `fault` is the error, `skipped` the reason for reading nothing, `halted`
    the reason why EmoGuard ended the generation, `steered` the steering; each is None if it does
    not apply.
    """

    identity: ModelIdentity
    backend: str
    rows: NDArray[np.float32]
    token_ids: NDArray[np.int64]
    phases: NDArray[np.uint8]
    finish: Finish
    seconds: float = 0.0
    fault: str | None = None
    skipped: str | None = None
    halted: str | None = None
    steered: Steered | None = None
    attention_sinks: int = 0
    labels: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()
    reasoning: Reasoning = "unknown"

    def __post_init__(self) -> None:
        counts = len(self.rows), len(self.token_ids), len(self.phases)
        if self.rows.ndim != 2 or len(set(counts)) != 1:
            raise ValueError(f"a reading needs one row, id and phase per token, got {counts}")
