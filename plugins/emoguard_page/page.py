"""Serves the page under `/emoguard/` and passes everything else on unchanged, as an ASGI app."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from emoguard_asgi.asgi import App, Receive, Scope, Send
from emoguard_asgi.client import Client
from emoguard_asgi.error import RefusedError
from emoguard_asgi.gate import Keys

from emoguard import jsontext
from emoguard.errors import EmoGuardError
from emoguard.runtime.watch import Watch
from emoguard_page.answer import Answer, first_model
from emoguard_page.desk import STREAM, Desk, first_of, is_inside
from emoguard_page.shown import Watched
from emoguard_page.viewers import PING_SECONDS, Viewer, gone

FRAME_SECONDS = 0.05
"""Least seconds between two pieces of an answer: no one reads faster."""


class Page:
    """Puts a live page in front of `app`, whose completions are generated under `watch`.

    `app` is the whole app as its clients see it, `EmoGuardMiddleware` included: the page sends
    prompts to its `path` as a client does, with the viewer's own key and under the policy for
    requests. Everything outside `/emoguard` passes unchanged.

    The page's data want `api_key`, or one of several, as a bearer token: give the keys of `app`.
    Pages of other sites are refused by `Host` and `Origin`; `hosts` are names of this server beside
    addresses and localhost. The operator's view shows what the guard's sink `page` (`Traffic`)
    keeps. `is_open` returns whether the server is still running: streams end once it is not.

    Raises:
        EmoGuardError: a key that is empty.

    """

    def __init__(
        self,
        app: App,
        watch: Watch,
        *,
        api_key: Keys = None,
        hosts: Iterable[str] = (),
        is_open: Callable[[], bool] = lambda: True,
        path: str = "/v1/chat/completions",
    ) -> None:
        self._app = app
        self._watch = watch
        self._path = path
        self._model: str | None = None
        self._desk = Desk(
            Watched(watch), api_key=api_key, hosts=hosts, is_open=is_open, answering=self._answer
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if is_inside(scope):
            await self._desk.serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, client: Client, send: Send) -> None:
        """Let the app answer the client's prompt, and send text and readings as they come."""
        asked = _object(await client.read())
        if "model" not in asked:
            # Some servers require a model's name, and accept any that they list.
            models = self._path.replace("chat/completions", "models")
            self._model = self._model or await first_model(self._app, scope, models)
            asked |= {} if self._model is None else {"model": self._model}
        client.replay(json.dumps({**asked, "stream": True}).encode("ascii"))
        answer = Answer(self._app, self._watch)
        asking = asyncio.create_task(answer.ask(scope, client.receive, self._path))
        sending = asyncio.create_task(_send_frames(Viewer(send, STREAM), answer))
        try:
            await asyncio.wait([asking])  # the app itself notices when the client leaves
            await first_of(sending, asyncio.create_task(gone(client.receive)))
        finally:
            await first_of(asking, sending)


async def _send_frames(viewer: Viewer, answer: Answer) -> None:
    """Send an answer as it comes, and how it ended."""
    await viewer.begin()
    await viewer.event("begin", {"id": answer.id})
    while not answer.complete:
        answer.changed.clear()
        if (frame := await answer.frame()) is not None:
            await viewer.event("frame", frame)
            await asyncio.sleep(FRAME_SECONDS)
        await viewer.keep_alive()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PING_SECONDS):
                await answer.changed.wait()
    if (frame := await answer.frame(end=True)) is not None:
        await viewer.event("frame", frame)
    await viewer.event("end", answer.end())
    await viewer.end()


def _object(body: bytes) -> dict[str, Any]:
    """Return the object that a viewer sends: a chat completion in OpenAI's terms.

    Raises:
        RefusedError: something else.

    """
    try:
        asked = jsontext.parse(body, surrogates=True)
    except EmoGuardError as error:
        raise RefusedError(400, f"the body: {error}", code="invalid_json") from error
    if not isinstance(asked, dict):
        raise RefusedError(400, "the body: wanted an object", code="invalid_json")
    return asked
