"""Opens llama_cpp.server's own app around one model, for `emoguard serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from emoguard_asgi.error import error_object
from fastapi.exceptions import RequestValidationError
from llama_cpp.server import app as server_app
from llama_cpp.server.errors import RouteErrorHandler
from llama_cpp.server.settings import ConfigFileSettings, ModelSettings, ServerSettings
from llama_cpp.server.types import CreateChatCompletionRequest, CreateCompletionRequest
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from emoguard import jsontext, regularfile
from emoguard.errors import EmoGuardError
from emoguard.policy import yamlfile
from emoguard.runtime.openers import first_line
from emoguard.runtime.served import Served, check_reach
from emoguard_llamacpp.lock import lock
from emoguard_llamacpp.named import NamedModel

log = logging.getLogger("emoguard")

LARGEST = 2**20
"""Bytes of a config file."""

UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
"""Errors raised by reading a body that is not JSON, or is nested without end."""

PATIENCE_SECONDS = 0.005
"""Seconds between the server's checks whether another thread has released the model."""

PLAIN_PROXY = server_app.get_llama_proxy
"""The server's own access to its model, under its locks."""


def read_model(path: str, **options: Any) -> tuple[ServerSettings, ModelSettings]:
    """Return the settings to serve one GGUF file with; options are llama_cpp.server's.

    The list of models shows the file's name, not its folder.

    Raises:
        EmoGuardError: there is no such file, or an option is wrong.

    """
    if not Path(path).is_file():
        raise EmoGuardError(f"there is no model at {path}: give a GGUF file")
    known = ServerSettings.model_fields
    mine = {name: value for name, value in options.items() if name in known}
    others = {name: value for name, value in options.items() if name not in known}
    with _in_one_sentence("the server's options"):
        model = ModelSettings(model=path, model_alias=Path(path).name, verbose=False, **others)
        return ServerSettings(**mine), model


def read_config(path: str, **options: Any) -> tuple[ServerSettings, ModelSettings]:
    """Return the settings of a config file of llama_cpp.server, JSON or YAML.

    Options belong to its server part and override the file.

    Raises:
        EmoGuardError: it cannot be read, is wrong, has other than one model (the server would load
            them by turns), or lets requests interrupt each other.

    """
    try:
        is_yaml = path.endswith((".yaml", ".yml"))
        data = yamlfile.read(path) if is_yaml else jsontext.parse(regularfile.read(path, LARGEST))
    except (EmoGuardError, OSError) as error:
        raise EmoGuardError(f"the config file cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise EmoGuardError(f"{path}: wanted a mapping, got {type(data).__name__}")
    with _in_one_sentence(path):
        settings = ConfigFileSettings.model_validate({**data, **options})
    if len(settings.models) != 1:
        raise EmoGuardError(f"{path}: wanted one model, got {len(settings.models)}")
    if data.get("interrupt_requests"):
        raise EmoGuardError(
            f"{path}: interrupt_requests cuts off running answers, and their notices with them: "
            "set it to false or leave it out"
        )
    return settings, settings.models[0]


def open_app(settings: ServerSettings, model: ModelSettings) -> Served:
    """Load the model and make the app: one request at a time, each to its end.

    Raises:
        EmoGuardError: a host that others can reach without an api_key, or a model that cannot be
            loaded.

    """
    check_reach(settings.host, settings.api_key)
    settings.interrupt_requests = False
    # Clients must not see the path: this name is used if they give none.
    model.model_alias = model.model_alias or Path(model.model).name
    # Otherwise the app would read this file again and use its settings.
    os.environ.pop("CONFIG_FILE", None)
    try:
        app = server_app.create_app(server_settings=settings, model_settings=[model])
    except (ValueError, OSError, RuntimeError, AssertionError) as error:
        raise EmoGuardError(f"{model.model} cannot be served: {first_line(error)}") from error
    app.add_exception_handler(HTTPException, _answer_error)
    for kind in UNREADABLE:
        app.add_exception_handler(kind, _answer_unreadable)
    # FastAPI's later versions leave routes in their router, earlier ones copy them into the app.
    for route in (*app.routes, *server_app.router.routes):
        if isinstance(route, RouteErrorHandler):
            setattr(route, "error_message_wrapper", _failed)  # noqa: B010  (a method, for mypy)
    # Innermost: it reads bodies, which layers around it ask for a key and bound first.
    app.router.middleware_stack = NamedModel(app.router.middleware_stack, model.model_alias)
    # With one model the proxy never loads another: this one stays.
    proxy: Any = server_app._llama_proxy  # noqa: SLF001
    llm = proxy._current_model  # noqa: SLF001
    _hold_lock(app, lock(llm))
    return Served(
        app,
        llm,
        settings.host,
        settings.port,
        partial(_stop, llm),
        settings.api_key,
        settings.ssl_keyfile,
        settings.ssl_certfile,
    )


def _hold_lock(app: Any, of_model: threading.Lock) -> None:
    """Hold the model's own lock whenever the app holds its locks, to protect other threads."""
    locked = contextlib.asynccontextmanager(PLAIN_PROXY)

    async def get_llama_proxy() -> AsyncIterator[Any]:
        async with locked() as proxy:
            # A thread that waits could not be cancelled.
            while not of_model.acquire(blocking=False):  # noqa: ASYNC110  (threads have it, too)
                await asyncio.sleep(PATIENCE_SECONDS)
            try:
                yield proxy
            finally:
                of_model.release()

    # Completions look it up in the module, other routes have it as a dependency.
    server_app.get_llama_proxy = get_llama_proxy
    app.dependency_overrides[PLAIN_PROXY] = get_llama_proxy


def _stop(llm: Any) -> None:
    def refuse(_tokens: Any) -> None:
        raise RuntimeError("the server is shutting down")

    llm.eval = refuse


async def _answer_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer in the shape that OpenAI's clients read, as the app's other errors do."""
    assert isinstance(error, HTTPException)
    code = "invalid_api_key" if error.status_code == 401 else None
    return _error(error.status_code, error.detail, code, error.headers)


async def _answer_unreadable(_request: Request, error: Exception) -> JSONResponse:
    """Answer a body that is not JSON with 400; the app would answer 500.

    The app reads the body a second time to word its error, outside its error handler.
    """
    where = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
    return _error(400, f"the body: wanted JSON in UTF-8, got something else{where}", "invalid_json")


def _error(
    status: int, message: str, code: str | None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": error_object(message, code=code)}, status, headers)


def _failed(error: Exception, body: Any = None) -> tuple[int, Any]:
    """Return status and error for a route's exception; log it without quoting the request.

    The server's own function prints the exception, and a validation error quotes the body.
    """
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        how = ": send JSON with content-type: application/json" if key == "body" else ""
        return 400, error_object(f"{key}: {first['msg']}{how}", code=None)
    if isinstance(body, CreateCompletionRequest | CreateChatCompletionRequest):
        for pattern, answer in RouteErrorHandler.pattern_and_formatters.items():
            if match := pattern.search(str(error)):
                return answer(body, match)
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("a request failed with %s:\n%s", type(error).__name__, frames)
    return 500, error_object(str(error), code=None, kind="internal_server_error")


@contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """Raise pydantic's first finding as an EmoGuardError."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise EmoGuardError(f"{what}: {key}: {first['msg']}") from error
