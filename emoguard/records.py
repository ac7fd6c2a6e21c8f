"""The records that flow through EmoGuard: what was asked, what was read, what is reported.

All are frozen. `Report` is one schema for three uses: the object a caller sees, the audit line and
the object on the wire; `docs/report.schema.json` is its JSON Schema.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from emoguard.identity import ModelIdentity

Phase = Literal["preparation", "reasoning", "response"]
Status = Literal["scored", "uncalibrated", "incomplete", "skipped", "cancelled", "error"]
Finish = Literal["stop", "length", "cancelled", "error", "unknown"]

PHASES: tuple[Phase, ...] = ("preparation", "reasoning", "response")
STATUSES: tuple[Status, ...] = (
    "scored",
    "uncalibrated",
    "incomplete",
    "skipped",
    "cancelled",
    "error",
)


@dataclass(frozen=True)
class Request:
    """What a caller says about one generation.

    `id` names the response in reports. `conversation` groups turns (never exported to metrics).
    `scores="tokens"` keeps one row of scores per token in the report; the default keeps summaries.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    conversation: str | None = None
    scores: Literal["summary", "tokens"] = "summary"


@dataclass(frozen=True)
class Reading:
    """What a runtime read during one response: the point where numbers leave the runtime.

    `rows[t]` is the reading the t-th generated token was chosen from, float32 of shape
    (tokens, labels): z where a calibration fits, else the raw projection. `token_ids` and `phases`
    (indices into `PHASES`) have shape (tokens,). A row that the hook did not refresh is NaN.
    `seconds` is host time spent in EmoGuard's own code around the model's forward passes. `fault`
    is what broke, `skipped` why nothing was read, if either is so.
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


@dataclass(frozen=True)
class LabelScore:
    """One label over one response.

    `mean` and `peak` are z (raw projections in an `uncalibrated` report): the mean over preparation
    and response tokens, and the maximum of its rolling mean over `Policy.window` tokens (None for
    responses shorter than that). `rank` in [0, 1] is the place of the mean among the means of the
    neutral calibration responses, None without a calibration.
    """

    mean: float
    peak: float | None
    rank: float | None


@dataclass(frozen=True)
class TokenScore:
    """One generated token: its id, its phase and its z per label, in the report's label order."""

    id: int
    phase: Phase
    z: tuple[float | None, ...]


@dataclass(frozen=True)
class Report:
    """One response as EmoGuard saw it.

    `scores` is empty when nothing may be averaged (`incomplete`, `skipped`, `error`); a `cancelled`
    response keeps the scores of what was generated. `tokens_scored` counts fresh rows and equals
    `completion_tokens` unless something broke. `faults` names the parts that failed during this
    response, and sinks that failed since the report before.
    """

    id: str
    status: Status
    model: str
    backend: str
    probe: str
    identity: str
    finish: Finish
    completion_tokens: int
    tokens_scored: int
    scores: dict[str, LabelScore]
    short: bool
    conversation: str | None = None
    phases: dict[Phase, int] = field(default_factory=dict)
    tokens: tuple[TokenScore, ...] = ()
    overhead_seconds: float = 0.0
    detail: str | None = None
    faults: tuple[str, ...] = ()
    created: float = field(default_factory=time.time)
    version: Literal[1] = 1

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON-ready data (`docs/report.schema.json`)."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Alert:
    """What a monitor says about a report: which monitor, which label, how serious, in one line."""

    monitor: str
    label: str
    severity: Literal["info", "warning", "critical"]
    message: str
    report_id: str
