"""Reads and extends the objects of OpenAI's completion APIs: bodies, and chunks of a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from emoguard_asgi import loosejson

MUTING = frozenset(
    {"response_format", "tools", "functions", "logprobs", "top_logprobs", "grammar", "suffix"}
)
"""Parts of a request by which a program, not a person, reads the text: nothing is appended then."""


# Most chunks end nothing, and need not be parsed. Inside a text the quotes would be escaped.
END = re.compile(rb'"finish_reason"\s*:\s*(?!null)[^\s]')


def read(text: bytes) -> dict[str, Any] | None:
    """Return a completion or a chunk in which a choice ends; None for everything else."""
    if END.search(text) is None:
        return None
    try:
        value = loosejson.parse(text)
    except (ValueError, loosejson.UnboundedError):
        return None
    if not isinstance(value, dict) or "emoguard" in value:
        return None
    return value if any(map(_ends, _choices(value))) else None


def mutes(body: Mapping[str, Any]) -> bool:
    """Return whether a request's answer is for a program."""
    return any(body.get(name) for name in MUTING)


def closing(chunk: Mapping[str, Any], text: str) -> bytes | None:
    """Return a chunk that says `text` for the choices that end with `chunk`; None after a call."""
    ending = [choice for choice in _choices(chunk) if _ends(choice)]
    if any(_calls(choice) for choice in ending):
        return None
    worded = [{**choice, "finish_reason": None, **_saying(choice, text)} for choice in ending]
    kept = {key: value for key, value in chunk.items() if key != "usage"}
    return json.dumps({**kept, "choices": worded}).encode("ascii")


def extended(body: Mapping[str, Any], text: str) -> bytes | None:
    """Return a body with `text` appended to its choices; None if one has no text."""
    longer = [_longer(choice, text) for choice in _choices(body)]
    if None in longer:
        return None
    return json.dumps({**body, "choices": longer}, separators=(",", ":")).encode("ascii")


def _longer(choice: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    message = choice.get("message")
    speech = choice if message is None else message
    key = "text" if message is None else "content"
    content = speech.get(key) if isinstance(speech, dict) else None
    if _calls(choice) or not isinstance(content, str):
        return None
    longer = {**speech, key: content + text}
    return longer if message is None else {**choice, "message": longer}


def _choices(completion: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices: Any = completion.get("choices")
    known = isinstance(choices, list) and all(isinstance(each, dict) for each in choices)
    return choices if known else []


def _ends(choice: Mapping[str, Any]) -> bool:
    return choice.get("finish_reason") is not None


def _calls(choice: Mapping[str, Any]) -> bool:
    """Return whether a choice calls a tool instead of speaking."""
    return choice.get("finish_reason") in ("tool_calls", "function_call")


def _saying(choice: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {"delta": {"content": text}} if "delta" in choice else {"text": text}
