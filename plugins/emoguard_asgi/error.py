"""Errors in the shape of OpenAI's API, which is what its clients know how to raise."""

from __future__ import annotations

import json
from collections.abc import Mapping

from emoguard_asgi.asgi import Send


async def refuse(
    send: Send, status: int, message: str, *, param: str | None = None, code: str | None = None
) -> None:
    """Answer with an error; `param` is what is wrong in the request, `code` a word for programs."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    await send_json(send, status, {"error": error})


async def send_json(send: Send, status: int, content: Mapping[str, object]) -> None:
    """Answer a request with a JSON object."""
    body = json.dumps(content).encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
