"""Takes EmoGuard's part out of a request body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from emoguard import jsontext, wire
from emoguard.errors import EmoGuardError
from emoguard.policy.policy import Policy
from emoguard.records import Request
from emoguard_asgi import choices, loosejson
from emoguard_asgi.asgi import Headers, header
from emoguard_asgi.error import RefusedError

CONVERSATION = b"x-emoguard-conversation"
"""The header that names a conversation if the object in the body does not."""

OWN = "emoguard.request"
"""Key of an ASGI scope. Code in this process that calls the app may put fields of a `Request` there
(`id`, `scores`): the client of a server cannot, and the policy's `requests` do not apply."""

DEEPEST = 200
"""Levels of nesting in a body with our object; schemas of tools go deeper than a policy."""


@dataclass(frozen=True)
class CompletionRequest:
    """One request, split into the guard's part, the server's body and the form of the answer.

    `body` is the client's, to the byte, unless it held an `emoguard` object, which the server never
    sees. `scores` is the part of the reading that the client gets; `suffix` puts a notice behind
    the text.
    """

    request: Request
    body: bytes
    scores: Literal["none", "summary", "tokens"] = "none"
    suffix: bool = False


def parse_request(
    body: bytes, headers: Headers, policy: Policy, own: Mapping[str, Any] | None = None
) -> CompletionRequest:
    """Parse a request's body. One that is not a JSON object makes no request of EmoGuard.

    The app will refuse such a body. `own` are fields of the request set by code in this process.

    Raises:
        EmoGuardError: an `emoguard` object that is malformed, or asks for more than is allowed.
        RefusedError: a body that other parsers may read as a JSON object, but this one does not.

    """
    sent = _object(body)
    if sent is None:
        return CompletionRequest(Request(carrier="server"), body)
    options, carried = sent.get(wire.KEY), _carried(sent)
    if carried is not None and options is None:
        options = jsontext.parse(carried)
    if carried is not None or wire.KEY in sent:
        sent.pop(wire.KEY, None)
        body = json.dumps(sent).encode("ascii")
    fields, denied = wire.parse_request(options, policy, _conversation(headers))
    known = fields | dict(own or {})
    request = Request(**known, user_text=user_text(sent), carrier="server", denied=denied)
    channel = request.channel or policy.notices.channel
    suffix = channel == "suffix" and not choices.mutes(sent)
    return CompletionRequest(request, body, fields.get("scores", "none"), suffix)


def _carried(sent: dict[str, Any]) -> str | None:
    """Take out of a body the object that vLLM's clients can only send as text; None without one."""
    parameters = sent.get("vllm_xargs")
    if not (isinstance(parameters, dict) and isinstance(parameters.get(wire.KEY), str)):
        return None
    text: str = parameters.pop(wire.KEY)
    return text


def user_text(sent: Mapping[str, Any]) -> str | None:
    """Return the user's last words: the last user message, or the prompt; None without any."""
    messages = sent.get("messages")
    if isinstance(messages, list):
        return wire.user_text(messages)
    prompt = sent.get("prompt")
    prompt = prompt[-1] if isinstance(prompt, list) and prompt else prompt
    return prompt if isinstance(prompt, str) else None


def _conversation(headers: Headers) -> str | None:
    """Return the conversation that the header names, in UTF-8 or else Latin-1."""
    named = header(headers, CONVERSATION)
    if named is None:
        return None
    try:
        return named.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return named


def _object(body: bytes) -> dict[str, Any] | None:
    """Return the object in a body; None for any other value and for text that is not JSON.

    Raises:
        RefusedError: JSON beyond the bounds, or an `emoguard` object in text that only resembles
        JSON.

    """
    try:
        # JavaScript clients may cut an emoji in half. In EmoGuard's own object that is an error.
        value = jsontext.parse(body, largest=len(body), deepest=DEEPEST, surrogates=True)
    except EmoGuardError as error:
        value = _loosely(body, error)
    return value if isinstance(value, dict) else None


def _loosely(body: bytes, error: EmoGuardError) -> Any:
    """Return the value of a text that many apps accept: with NaN, in UTF-16 and the like.

    Raises:
        RefusedError: it is beyond the bounds, or asks something of EmoGuard.

    """
    refused = RefusedError(400, f"the body: {error}", code="invalid_json")
    try:
        value = loosejson.parse(body)
    except ValueError:
        return None
    except loosejson.UnboundedError:
        raise refused from error
    if isinstance(value, dict) and wire.KEY in value:
        raise refused from error
    return value
