"""The `emoguard` object on the wire: options of a request, outcome in its response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from emoguard.errors import EmoGuardError
from emoguard.policy import schema
from emoguard.policy.policy import Policy
from emoguard.records import Report, check_name
from emoguard.steering.plan import Plan

KEY = "emoguard"
"""The key of the object in the body of a request and of a response."""

HALTED = "content_filter"
"""Finish reason of a completion stopped by EmoGuard: OpenAI's name for an answer cut off by its
provider."""

LONGEST = 256
"""Characters of a conversation's name."""


@dataclass(frozen=True)
class RequestOptions:
    """The fields of a client's object; the policy's `requests` decide which take effect."""

    plan: Plan = field(default_factory=Plan)
    """Steer this response."""
    scores: Literal["summary", "tokens"] | None = None
    """Return scores of the response, or of each token as well."""
    channel: Literal["field", "suffix"] | None = None
    """Where to write a notice."""
    conversation: str | None = None
    """The conversation this is a turn of."""

    def __post_init__(self) -> None:
        if self.conversation is not None:
            check_name("conversation", self.conversation, LONGEST)


def parse_request(
    data: Any, policy: Policy, conversation: str | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the `Request` fields of a client's object, and the names of those denied to it.

    Null, for the object or any of its fields, requests nothing. `conversation` is the name in a
    header, for an object without one.

    Fields that the policy's `requests` do not allow are not parsed; the second part names them, for
    `Request.denied`. A plan must keep the policy's bound; its labels are checked later, against the
    probe.

    Raises:
        EmoGuardError: not a mapping, an unknown key, or an allowed field that is not sound.

    """
    if not (data is None or isinstance(data, Mapping)):
        raise EmoGuardError(f"{KEY}: wanted an object, got {type(data).__name__}")
    named = {} if conversation is None else {"conversation": conversation}
    data = named | {name: part for name, part in (data or {}).items() if part is not None}
    names = [each.name for each in fields(RequestOptions) if each.name in data]
    denied = tuple(name for name in names if not getattr(policy.requests, name))
    options = schema.parse(RequestOptions, {k: v for k, v in data.items() if k not in denied}, KEY)
    policy.steering.allow(options.plan)
    allowed = {name: getattr(options, name) for name in names if name not in denied}
    return {name: value for name, value in allowed.items() if value is not None}, denied


def response_object(
    reports: Sequence[Report], scores: Literal["none", "summary", "tokens", "text"] = "none"
) -> dict[str, Any] | None:
    """Return the `emoguard` object of a response with these `reports`; None without any.

    It is the last report's, with the last notice that has words, or else the last notice.
    """
    if not reports:
        return None
    notices = [report.notice for report in reports if report.notice is not None]
    worded = [notice for notice in notices if notice.text] or notices
    fields = reports[-1].wire(scores)
    return fields | {"notice": worded[-1].wire()} if worded else fields


def user_text(messages: Any) -> str | None:
    """Return the text of the last user message in a chat's `messages`, or None."""
    turns = messages if isinstance(messages, list | tuple) else ()
    for turn in reversed(turns):
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            return _joined(turn.get("content"))
    return None


def _joined(content: Any) -> str | None:
    """Return a message's text, which is a string or a list of parts, some of them text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str)) or None
