"""Opens the app of `transformers serve` around one model, for `emoguard serve`."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

from emoguard_asgi.error import error_object
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import ContinuousBatchingConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.systemone import SystemOneHandler
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import (
    X_REQUEST_ID,
    BaseGenerateManager,
    GenerateManager,
    GenerationState,
)

from emoguard.errors import EmoGuardError
from emoguard.runtime.openers import first_line
from emoguard.runtime.served import Served, check_reach

UNWATCHED = {
    "/v1/responses": "EmoGuard reads completions alone: use /v1/chat/completions",
    "/v1/systemone": "EmoGuard reads completions alone: run transformers serve for decisions",
    "/v1/audio/transcriptions": "EmoGuard reads completions alone: run transformers serve for it",
    "/load_model": "one model is served here, the one that is watched: start another server",
    "/reset": "the model that is watched stays loaded: restart the server",
}
"""Routes of the app that could not be watched, or would unload the watched model, and their
replacements."""


def open_app(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch: ContinuousBatchingConfig | None = None,
) -> Served:
    """Load the model of a folder and make the app of `transformers serve` for it.

    With `batch`, requests are answered by continuous batching, else one after the other. A batch
    uses the sampling parameters of its first request: Transformers knows no others yet. Clients
    name the model by the folder's name, or not at all.

    Raises:
        EmoGuardError: a host that others can reach without an api_key, or a model that cannot be
            loaded.

    """
    check_reach(host, api_key)
    try:
        manager = OneModel(Path(path), device, dtype, continuous_batching=batch is not None)
    except (ValueError, OSError, RuntimeError) as error:
        raise EmoGuardError(f"{path} cannot be served: {first_line(error)}") from error
    state = CarryingState(batch)
    app = build_server(
        manager,
        ChatCompletionHandler(manager, state),
        CompletionHandler(manager, state),
        ResponseHandler(manager, state),
        TranscriptionHandler(manager, state),
        SystemOneHandler(manager, state),
        state,
    )
    _refuse_unwatched(app)
    app.add_middleware(OwnIds)
    return Served(
        app,
        manager.model,
        host,
        port,
        partial(_stop, manager.model, state),
        api_key,
        options={"tokenizer": getattr(manager.processor, "tokenizer", manager.processor)},
    )


def batching(**options: Any) -> ContinuousBatchingConfig:
    """Return the configuration of a continuous batch whose passes can be read."""
    return ContinuousBatchingConfig(use_cuda_graph=False, use_async_batching=False, **options)


class OneModel(ModelManager):
    """The model manager of a server with one model that is never unloaded: it is watched.

    Clients know it by the name of its folder, never by its path.
    """

    def __init__(self, path: Path, device: str, dtype: str, *, continuous_batching: bool) -> None:
        super().__init__(device, dtype, continuous_batching=continuous_batching, model_timeout=-1)
        name = self.process_model_name(str(path.resolve()))
        if name.count("@") > 1 or not name.endswith("@main"):
            raise EmoGuardError(f"{path}: Transformers reads @ as a revision: rename the folder")
        self.model, self.processor = super().load_model_and_processor(name)
        self.force_model = path.resolve().name

    def load_model_and_processor(self, *_args: Any, **_kwargs: Any) -> tuple[Any, Any]:
        """Return the one model; names of others are refused before this."""
        return self.model, self.processor

    def get_gen_models(  # type: ignore[override]  # a static method with a cache there
        self, *_args: Any
    ) -> list[dict[str, Any]]:
        """Return the one entry of `/v1/models`; the server's own lists the cache of the hub."""
        return [{"id": self.force_model, "object": "model", "owned_by": "", "created": 0}]

    def shutdown(self) -> None:
        """Keep the model: it is closed by the owner of the app."""


class CarryingManager(GenerateManager):
    """Generates on the server's own thread, in the context of the request that asks for it."""

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `fn` on the thread in the current context."""
        return super().submit(copy_context().run, fn, *args, **kwargs)

    def async_submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `fn` on the thread in the current context."""
        return super().async_submit(copy_context().run, fn, *args, **kwargs)


class CarryingState(GenerationState):
    """The generation state of a server with one model."""

    def __init__(self, batch: ContinuousBatchingConfig | None) -> None:
        super().__init__(continuous_batching=batch is not None, cb_config=batch)
        self._one_by_one = CarryingManager()  # type: ignore[no-untyped-call]

    def get_manager(self, model_id: str, use_cb: bool = False) -> BaseGenerateManager:
        """Return the generating manager: the batch, or the one thread."""
        return super().get_manager(model_id, use_cb=True) if use_cb else self._one_by_one


class OwnIds:
    """Refuses a request with the `X-Request-ID` of another that is not answered yet.

    A batch knows its requests by this id alone: of two, one would never be answered.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._under_way: set[bytes] = set()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one connection."""
        wanted = X_REQUEST_ID.lower().encode()
        headers = dict(scope.get("headers", ())) if scope["type"] == "http" else {}
        name = headers.get(wanted)
        if name is None:
            await self._app(scope, receive, send)
        elif name in self._under_way:
            what = f"a request with this {X_REQUEST_ID} is under way: give each its own"
            await _error(409, what, "id_in_use")(scope, receive, send)
        else:
            self._under_way.add(name)
            try:
                await self._app(scope, receive, send)
            finally:
                self._under_way.discard(name)


def _refuse_unwatched(app: Any) -> None:
    """Replace each route that cannot be watched by an explanation."""
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", None) not in UNWATCHED
    ]
    for path, sentence in UNWATCHED.items():

        async def refuse(_request: Request, sentence: str = sentence) -> JSONResponse:
            return _error(501, sentence, "not_watched")

        app.router.routes.append(Route(path, refuse, methods=["POST"]))


def _error(status: int, message: str, code: str) -> JSONResponse:
    """Return an error in the shape that OpenAI's clients read."""
    return JSONResponse({"error": error_object(message, code=code)}, status)


def _stop(model: Any, state: GenerationState) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("the server is shutting down")

    model.register_forward_pre_hook(refuse)
    state.shutdown()
