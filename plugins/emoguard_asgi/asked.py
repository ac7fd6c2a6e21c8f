"""What one request asks of EmoGuard, and the body that the server gets to see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from emoguard import wire
from emoguard.errors import EmoGuardError
from emoguard.policy import Policy
from emoguard.records import Request
from emoguard_asgi import choices
from emoguard_asgi.asgi import Headers, header

CONVERSATION = b"x-emoguard-conversation"
"""The header that names a conversation where the object in the body does not."""


@dataclass(frozen=True)
class Asked:
    """One request: what of it the guard gets, what the server gets, and how it is answered.

    `body` is that of the client, to the byte, unless it held an `emoguard` object, which the server
    never sees. `scores` is what the client is shown of the reading; `suffix` says that a notice
    goes behind the text.
    """

    request: Request
    body: bytes
    scores: Literal["none", "summary", "tokens"] = "none"
    suffix: bool = False


def read(body: bytes, headers: Headers, policy: Policy) -> Asked:
    """Read a request's body; what is no JSON object asks for nothing, and the server says so.

    Raises:
        EmoGuardError: an `emoguard` object that is malformed, or asks for more than may be.

    """
    try:
        return _read(body, headers, policy)
    except RecursionError:
        raise EmoGuardError("the body is nested too deeply to be read") from None


def _read(body: bytes, headers: Headers, policy: Policy) -> Asked:
    sent = _object(body)
    if sent is None:
        return Asked(Request(carrier="server"), body)
    own = None
    if wire.KEY in sent:
        own = sent.pop(wire.KEY)
        body = json.dumps(sent).encode("ascii")
    fields, denied = wire.ask(own, policy, header(headers, CONVERSATION))
    request = Request(**fields, user_text=user_text(sent), carrier="server", denied=denied)
    channel = request.channel or policy.notices.channel
    suffix = channel == "suffix" and not choices.mutes(sent)
    return Asked(request, body, fields.get("scores", "none"), suffix)


def user_text(sent: Mapping[str, Any]) -> str | None:
    """Return what the user said last: the last user message, or the prompt; None without any."""
    messages = sent.get("messages")
    if isinstance(messages, list):
        return wire.user_text(messages)
    prompt = sent.get("prompt")
    prompt = prompt[-1] if isinstance(prompt, list) and prompt else prompt
    return prompt if isinstance(prompt, str) else None


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
