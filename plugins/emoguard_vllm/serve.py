"""The middleware of `vllm serve`: attaches to the server's engine when the server starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from emoguard_asgi import EmoGuardMiddleware
from emoguard_asgi.asgi import App, Message, Receive, Scope, Send
from emoguard_asgi.error import RefusedError, refuse
from emoguard_page import Page

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.runtime.disabled import is_disabled
from emoguard.runtime.served import sinks_lacking
from emoguard.runtime.watch import Watch
from emoguard_vllm import seams
from emoguard_vllm.engine import NOT_STARTED
from emoguard_vllm.settings import Settings
from emoguard_vllm.unwatched import Unwatched

log = logging.getLogger("emoguard")

UNATTACHED = "EmoGuard is not attached: the server must run its life span"


class Middleware:
    """Reads every completion of a vLLM server: `--middleware emoguard_vllm.Middleware`.

    Probe and policy are those of `--additional-config '{"emoguard": {…}}'`. Unsound ones end the
    server before it listens. Metrics join vLLM's own, at /metrics, unless the policy has a sink
    prometheus. The keys are the server's own, `--api-key`: without one of them no body of a
    completion is read. Other routes that generate are answered 501. The setting `page` puts a live
    page at /emoguard/.
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
            await refuse(send, RefusedError(503, UNATTACHED, code="not_attached"))

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        try:
            await self._attach(scope["app"].state)
        except Exception as error:  # any other would be swallowed, and every request answered 503
            if isinstance(error, EmoGuardError):
                log.error("emoguard: %s", error)  # noqa: TRY400  (one sentence, no traceback)
            else:
                log.exception("EmoGuard could not be attached")
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

    async def _attach(self, state: Any) -> None:
        """Open the guard, attach to the engine in the server's state, and go before the server.

        Raises:
            EmoGuardError: as `emoguard.attach` and `open_guard`.

        """
        if is_disabled():
            self._inner = self._app
            return
        engine = state.engine_client
        settings = Settings.of(engine.vllm_config.additional_config)
        if settings is None:
            raise EmoGuardError(NOT_STARTED)
        if missing := seams.missing_in_server():
            raise EmoGuardError(seams.unknown(missing))
        loop = asyncio.get_running_loop()
        sinks = _sinks(settings)

        def attach() -> Watch:
            with ExitStack() as stack:
                guard = stack.enter_context(
                    emoguard.open_guard(
                        engine, settings.policy, settings.probe, sinks=sinks, loop=loop
                    )
                )
                watch = stack.enter_context(emoguard.attach(engine, guard, loop=loop))
                self._watching = stack.pop_all()
                return watch

        watch = await asyncio.to_thread(attach)
        keys = seams.api_keys(state)
        self._inner = EmoGuardMiddleware(Unwatched(self._app, watch), watch, api_key=keys)
        if settings.page:
            self._inner = Page(
                self._inner,
                watch,
                api_key=keys,
                hosts=settings.hosts,
                is_open=lambda: seams.is_serving(state),
            )


def _sinks(settings: Settings) -> list[dict[str, Mapping[str, Any]]]:
    """Return the sinks of the server itself: metrics that join vLLM's, what the page shows."""
    own = {"prometheus": {"process": True}} | ({"page": {}} if settings.page else {})
    return [{name: options} for name, options in sinks_lacking(settings.policy, own).items()]
