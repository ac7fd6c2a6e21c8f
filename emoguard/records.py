"""The records that flow through EmoGuard: requests, reports, notices and alerts.

All are frozen. `Report` is one schema for three uses: the object a caller sees, the audit line and
the object on the wire; `docs/report.schema.json` is its JSON Schema.
"""

from __future__ import annotations

import dataclasses
import re
import time
import uuid
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar, Literal

from emoguard import reporttable
from emoguard.errors import EmoGuardError
from emoguard.policy import schema
from emoguard.policy.annotation import describe
from emoguard.steering.plan import Plan

Phase = Literal["preparation", "reasoning", "response"]
Reasoning = Literal["marked", "unclosed", "unknown"]
Status = Literal["scored", "uncalibrated", "incomplete", "skipped", "cancelled", "error"]
Finish = Literal["stop", "length", "cancelled", "halted", "error", "unknown"]
Channel = Literal["field", "header", "suffix"]
Kind = Literal["ai", "steered", "amplified", "prompted"]
Reason = Literal[
    "start", "interval", "steered", "amplified", "prompted", "claim", "question", "undelivered"
]

PHASES: tuple[Phase, ...] = ("preparation", "reasoning", "response")
STATUSES: tuple[Status, ...] = (
    "scored",
    "uncalibrated",
    "incomplete",
    "skipped",
    "cancelled",
    "error",
)

LONGEST_NAME = 1000
"""Most characters of a request's id and of a conversation's name."""
LONGEST_NUMBERED = LONGEST_NAME + 21
"""With the number that a plug-in gives each response of one call."""

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, the line ends of other readers, and lone surrogates."""


@dataclass(frozen=True)
class Request:
    """The options of one generation: its name, scores, steering and notices.

    `id` names the response in reports. `conversation` groups turns (never exported to metrics).
    `scores="tokens"` keeps one row of scores per token in the report, `"text"` also the text of
    each token (for the caller alone: sinks never see it); the default keeps summaries.
    `plan` steers this one, on top of what the policy asks and within its bound.

    For notices: `user_text` is the user's last message; it is only searched for the question
    whether this is a human, and kept nowhere. `channel` is how to give a notice, by default as in
    the policy. A `carrier` "process" has the notice with the response; a "server" declares later,
    by `Guard.deliver` or `Guard.lost`, whether it arrived. `denied` names the fields that a
    server's client sent without permission.

    `call` is the original `id`, which a plug-in numbers if one call makes several responses: they
    are found by it, and their notices given or lost together.

    `id` and `conversation` may be integers or UUIDs, which become text; `id=None` makes one up;
    `plan` may be a mapping with the keys of a policy's plan.

    Raises:
        EmoGuardError: a value of another type, an unknown word, or a name that is empty, longer
            than 1,000 characters or holds control characters.

    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    conversation: str | None = None
    scores: Literal["summary", "tokens", "text"] = "summary"
    plan: Plan | None = None
    user_text: str | None = field(default=None, repr=False)
    channel: Literal["field", "suffix"] | None = None
    carrier: Literal["process", "server"] = "process"
    denied: tuple[str, ...] = ()
    call: str = ""

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.id is None:
            put(self, "id", uuid.uuid4().hex)
        is_first = isinstance(self.call, str) and not self.call
        # A plug-in numbers responses behind the id of their call.
        longest = LONGEST_NAME if is_first else LONGEST_NUMBERED
        put(self, "id", check_name("Request.id", self.id, longest))
        put(self, "call", self.id if is_first else check_name("Request.call", self.call))
        if self.conversation is not None:
            put(self, "conversation", check_name("Request.conversation", self.conversation))
        schema.check(self)


def check_name(key: str, value: Any, longest: int = LONGEST_NAME) -> str:
    """Return a caller's name of a request or conversation as text; `key` names it in errors.

    Integers and UUIDs, as databases and frameworks have them, become text. A name stands in logs,
    audit lines and answers, so it is one line of 1 to `longest` characters.

    Raises:
        EmoGuardError: another type, an empty name, a longer one, control characters or lone
            surrogates.

    """
    text: str = value if type(value) is str else _as_text(key, value)
    if not 0 < len(text) <= longest:
        raise EmoGuardError(
            f"{key}: wanted a name of 1 to {longest:,} characters, got {len(text):,}"
        )
    if not text.isprintable() and UNSAFE.search(text):
        raise EmoGuardError(
            f"{key}: wanted a name without control characters, got {describe(text)}"
        )
    return text


def _as_text(key: str, value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass only the text
    if isinstance(value, bool) or not isinstance(value, (Integral, uuid.UUID)):
        raise EmoGuardError(f"{key}: wanted text, an integer or a UUID, got {describe(value)}")
    try:
        return str(value)
    except ValueError:  # more digits than Python writes out
        raise EmoGuardError(f"{key}: wanted a name, got {describe(value)}") from None


@dataclass(frozen=True)
class Receipt:
    """The effect of steering on one response; every number is of the residuals as stored."""

    plan: dict[str, Any]
    """The plan as it was applied: add, cap, floor, ablate, layers, prompt; empty parts left out."""
    asked: dict[str, Any] | None
    """The requested plan if the policy clipped it; else null."""
    layers: tuple[int, ...]
    """The layers that were acted on."""
    bound: float
    """No token may be moved by more than this: the policy's max_dose_ratio."""
    dose_median: float | None
    """Median over tokens of ‖h' - h‖/‖h‖, layers added up; null without a token."""
    dose_max: float | None
    """The same for the token that moved most."""
    applied: int
    """Tokens that were moved."""
    clipped: int
    """Tokens for which the bound cut the step short: a limit may not hold there."""
    faulted: int
    """Tokens left unsteered because a number was not finite or steering broke."""


Verdict = Literal["usable", "weak", "untested", "not usable"]
"""The verdict of the validation on a label's score; see `emoguard validate`."""

VERDICTS: tuple[Verdict, ...] = ("not usable", "untested", "weak", "usable")
"""From the worst to the best."""


@dataclass(frozen=True)
class LabelScore:
    """One label over the preparation and response tokens of one response."""

    mean: float
    """Mean z of the label (mean raw projection in an uncalibrated report)."""
    peak: float | None
    """Maximum of the rolling mean over the policy's window_tokens; null for a short response."""
    rank: float | None
    """Place of the mean among the means of neutral responses, in [0, 1]; null uncalibrated."""
    crossings: int | None = None
    """Times the rolling mean rose over the alarm threshold; null without a certified one."""
    verdict: Verdict | None = None
    """The verdict of the validation on the label; null if the probe was not validated."""


@dataclass(frozen=True)
class TokenScore:
    """One generated token and the z it was chosen at."""

    id: int
    """The token's id in the model's vocabulary."""
    phase: Phase
    """preparation (read at the last prompt token), reasoning or response."""
    z: tuple[float | None, ...]
    """z per label, in the order of `scores` and of the policy's labels: null if not read, 0 at an
    attention sink."""
    attention_sink: bool = False
    """Whether it was read at an attention sink, where a reading says nothing about the response.
    The reading is withheld, so that a sum over z adds nothing."""
    text: str | None = None
    """The text that the token adds; empty if a character ends with a later token. Null unless the
    request asked for it, and in all that reaches a sink."""


@dataclass(frozen=True)
class Notice:
    """A notice to the user of a response, with the reasons for it."""

    kind: Kind
    """ai: this is an AI system; steered: software also adjusted the tone; amplified: a label listed
    in the policy also rose over its threshold; prompted: the operator also set an emotional tone,
    as the policy states."""
    reasons: tuple[Reason, ...]
    """Reasons: the start of an interaction, an interval, steering, amplification, a prompt that
    sets the tone, a claim to feel or to be human, a question whether this is a human, an earlier
    notice that was lost."""
    profiles: tuple[str, ...]
    """The profiles under which it is due; empty if steering or amplification is the only reason."""
    text: str
    """The words to show; empty if this conversation has shown them and nothing changed."""
    version: int
    """Version of the shipped words and profiles."""
    locale: str
    """Language of the words, as in BCP 47."""
    break_reminder: bool = False
    """Whether the words also suggest a break."""
    channel: Channel | None = None
    """The channel of delivery; null if it was not delivered, or not yet."""

    def wire(self) -> dict[str, Any]:
        """Return the notice as a response carries it, without how it was given."""
        return {key: _plain(value) for key, value in vars(self).items() if key != "channel"}


@dataclass(frozen=True)
class Report:
    """One response as EmoGuard read it: the caller's object, the audit line and the wire format.

    All readings are of the model's internal representations, never of the user.
    """

    # Read by pydantic when docs/report.schema.json is made; the core does not import pydantic.
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "use_attribute_docstrings": True,
        "json_schema_serialization_defaults_required": True,
    }

    id: str
    """The request's id, generated if the caller gave none."""
    status: Status
    """scored; uncalibrated (raw projections: no calibration for this model file); incomplete (a
    token without a fresh reading); skipped (a generation mode that is not read); cancelled (broken
    off, scored up to there); error (EmoGuard failed, the response did not)."""
    model: str
    """The model's name, as its runtime knows it."""
    backend: str
    """The runtime and read path."""
    probe: str
    """The probe's name and the first 8 hex digits of its file's SHA-256."""
    identity: str
    """Digest of the model file; calibrations belong to one of these."""
    finish: Finish
    """The reason why generation ended; halted: EmoGuard ended it, as the policy says (see
    detail)."""
    completion_tokens: int
    """Tokens that were generated."""
    tokens_scored: int
    """Tokens with a fresh reading; equal to completion_tokens unless something broke."""
    scores: dict[str, LabelScore]
    """Score per label; empty if nothing may be averaged (incomplete, skipped, error) or if all
    preparation and response tokens were read at an attention sink."""
    short: bool
    """Fewer tokens were averaged than the rolling window holds."""
    conversation: str | None = None
    """The caller's name for the conversation this response belongs to."""
    phases: dict[Phase, int] = field(default_factory=dict)
    """Generated tokens per phase."""
    reasoning: Reasoning = "unknown"
    """marked: the model's own marks tell its reasoning from the response; unclosed: they opened
    reasoning that was never closed, which counts as response; unknown: no marks are known for this
    model, and every token but the first counts as response."""
    tokens: tuple[TokenScore, ...] = ()
    """One entry per generated token when the request asked for it, else empty."""
    overhead_seconds: float = 0.0
    """Host time in EmoGuard's own code around the model's forward passes."""
    receipt: Receipt | None = None
    """The receipt of the steering; null without a plan."""
    detail: str | None = None
    """The error, or the reason for reading nothing or for ending the generation."""
    faults: tuple[str, ...] = ()
    """Parts that failed during this response, and sinks that failed since the report before."""
    notice: Notice | None = None
    """The notice to the user with this response; null if none is due."""
    denied: tuple[str, ...] = ()
    """Fields of a request over a server's wire that the policy does not allow and that were
    ignored: plan, scores, channel, conversation."""
    call: str = ""
    """The request's id before it was numbered: the same for all responses of one call."""
    attention_sinks: int = 0
    """Preparation and response tokens read at an attention sink: at the first position of the
    sequence, or at repetitions of its token right behind it, where z is extreme for any text. They
    are among tokens_scored and in no score, alarm, baseline or calibration."""
    sampled: bool = True
    """Whether the policy's sample_ratio chose this response by its id. Rates, ranks and drift use
    these only; others reach the sinks only if they were steered, faulty or carry a notice."""
    provisional: bool = False
    """Whether a quick fit made the probe: all readings are rougher than with a finished one."""
    created: float = field(default_factory=time.time)
    """When the report was made, seconds since 1970 (UTC)."""
    version: Literal[1] = 1
    """Version of this schema; later versions only add fields."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "call", self.call or self.id)

    @property
    def steered(self) -> bool:
        """Return whether any token was moved: baselines and drift ignore such a response."""
        return self.receipt is not None and self.receipt.applied > 0

    @property
    def tokens_averaged(self) -> int:
        """Return the number of tokens averaged in the scores, if there are scores."""
        own = self.phases.get("preparation", 0) + self.phases.get("response", 0)
        return own - self.attention_sinks

    def __str__(self) -> str:
        return reporttable.as_text(self)

    def html(self, label: str | None = None) -> str:
        """Return the report as HTML: the table, above it the tokens in the colour of `label`.

        Tokens are shown if the request had `scores="text"`. The default label is the one with the
        highest mean.

        Raises:
            EmoGuardError: the report has no score of that label.

        """
        if label is not None and label not in self.scores:
            known = ", ".join(self.scores) or "none"
            raise EmoGuardError(f"unknown label {label:.60}: this report has {known}")
        return reporttable.as_html(self, label)

    def _repr_html_(self) -> str:
        """Return the report as HTML, for notebooks."""
        return self.html()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON data (`docs/report.schema.json`): no tuples, no NaN."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def without_text(self) -> Report:
        """Return the report without the text of its tokens, as sinks get it."""
        if all(token.text is None for token in self.tokens):
            return self
        bare = tuple(dataclasses.replace(token, text=None) for token in self.tokens)
        return dataclasses.replace(self, tokens=bare)

    def wire(self, scores: Literal["none", "summary", "tokens", "text"] = "none") -> dict[str, Any]:
        """Return the `emoguard` object of a response: the part of a report for its client.

        By default version, id, status, steered and notice (without its channel): no readings.
        `scores="summary"` adds the scores and the flag of a short response, "tokens" also one entry
        per token, "text" the same with the token's text. The rest of a report is the operator's.
        """
        fields: dict[str, Any] = {
            "version": self.version,
            "id": self.id,
            "status": self.status,
            "steered": self.steered,
            "notice": None if self.notice is None else self.notice.wire(),
        }
        if scores != "none":
            fields["scores"] = {label: vars(score).copy() for label, score in self.scores.items()}
            fields["short"] = self.short
        if scores in ("tokens", "text"):
            tokens = self.tokens if scores == "text" else self.without_text().tokens
            fields["tokens"] = [_plain(dataclasses.asdict(token)) for token in tokens]
        return fields


@dataclass(frozen=True)
class Alert:
    """An alert on one label, of a monitor or of a crossing while a response was generated."""

    monitor: str
    label: str
    severity: Literal["info", "warning", "critical"]
    message: str
    report_id: str
    scores: dict[str, float] = field(default_factory=dict)
    """Of a crossing: the mean z of each label over the window (unclosed reasoning: its highest)."""
    text: str = ""
    """The window's text (unclosed reasoning: the response's). Only `on_alert` gets it."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
