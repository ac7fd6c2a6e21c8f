"""Sends errors in the shape of OpenAI's API, which its clients raise as exceptions."""

from __future__ import annotations

import json
from collections.abc import Mapping

from emoguard_asgi.asgi import Headers, Send

LONGEST = 1000
"""Characters of a message, which may quote the request."""


class RefusedError(Exception):
    """Raised to answer a request with an error of EmoGuard's.

    `param` names the wrong part of the request, `code` is a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = tuple(headers)


def error_object(
    message: str,
    *,
    code: str | None,
    param: str | None = None,
    kind: str = "invalid_request_error",
) -> dict[str, str | None]:
    """Return the object under `error` in a response, as OpenAI's clients read it."""
    return {"message": message, "type": kind, "param": param, "code": code}


async def refuse(send: Send, error: RefusedError) -> None:
    """Answer with an error."""
    content = error_object(str(error)[:LONGEST], code=error.code, param=error.param)
    # Written as llama_cpp.server does: both refuse a wrong key with the same bytes.
    text = json.dumps({"error": content}, separators=(",", ":"))
    await _send_json(send, error.status, text, error.headers)


async def send_json(send: Send, status: int, content: Mapping[str, object]) -> None:
    """Answer a request with a JSON object."""
    await _send_json(send, status, json.dumps(content))


async def _send_json(send: Send, status: int, text: str, more: Headers = ()) -> None:
    body = text.encode("ascii")
    length = (b"content-length", b"%d" % len(body))
    headers = [length, (b"content-type", b"application/json"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
