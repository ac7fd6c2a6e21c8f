"""The middleware of `vllm serve`: attaches to the server's engine when the server starts."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from contextlib import ExitStack
from typing import Any

from emoguard_asgi import EmoGuardMiddleware
from emoguard_asgi.asgi import App, Message, Receive, Scope, Send

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.policy.policy import Policy
from emoguard.runtime.watch import Watch
from emoguard_vllm.engine import NOT_STARTED
from emoguard_vllm.settings import Settings

log = logging.getLogger("emoguard")


class Middleware:
    """Reads every completion of a vLLM server: `--middleware emoguard_vllm.Middleware`.

    Probe and policy are those of `--additional-config '{"emoguard": {…}}'`. Unsound ones end the
    server before it listens. Metrics join vLLM's own, at /metrics, unless the policy has a sink
    prometheus.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._inner: App | None = None
        self._watching = ExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the server's life."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._inner is not None:
            await self._inner(scope, receive, send)
        else:  # a server without a life span: nothing would be read
            await _refuse(send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        try:
            await self._attach(scope["app"].state.engine_client)
        except EmoGuardError as error:
            log.error("emoguard: %s", error)  # noqa: TRY400  (one sentence, no traceback)
            await send({"type": "lifespan.startup.failed", "message": f"emoguard: {error}"})
            return
        waiting = [first]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        try:
            await self._app(scope, again, send)
        finally:
            self._inner = None
            await asyncio.to_thread(self._watching.close)

    async def _attach(self, engine: Any) -> None:
        """Open the guard and attach.

        Raises:
            EmoGuardError: as `emoguard.attach` and `open_guard`.

        """
        if os.environ.get("EMOGUARD_DISABLE") == "1":
            self._inner = self._app
            return
        settings = Settings.of(engine.vllm_config.additional_config)
        if settings is None:
            raise EmoGuardError(NOT_STARTED)
        loop = asyncio.get_running_loop()

        def attach() -> Watch:
            with ExitStack() as stack:
                guard = stack.enter_context(
                    emoguard.open_guard(
                        engine, settings.policy, settings.probe, sinks=_metrics(settings), loop=loop
                    )
                )
                watch = stack.enter_context(emoguard.attach(engine, guard, loop=loop))
                self._watching = stack.pop_all()
                return watch

        self._inner = EmoGuardMiddleware(self._app, await asyncio.to_thread(attach))


def _metrics(settings: Settings) -> tuple[dict[str, dict[str, bool]], ...]:
    """Return the sink whose metrics join vLLM's, in a policy's notation, unless it has its own."""
    sinks = Policy.load(settings.policy).sinks if settings.policy else ()
    named = [name for sink in sinks for name in sink]
    return () if "prometheus" in named else ({"prometheus": {"process": True}},)


async def _refuse(send: Send) -> None:
    message = "EmoGuard is not attached: the server must run its life span"
    body = json.dumps({"error": {"message": message, "type": "server_error"}}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
