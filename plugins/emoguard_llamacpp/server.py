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
from emoguard.runtime.served import Served, check_reach
from emoguard_llamacpp.lock import lock
from emoguard_llamacpp.named import NamedModel

log = logging.getLogger("emoguard")

LARGEST = 2**20
"""Bytes of a config file."""

UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
"""What reading a body that is no JSON, or is nested without end, raises."""

PATIENCE_SECONDS = 0.005
"""How often the server looks whether a thread of this process has given the model back."""

PLAIN_PROXY = server_app.get_llama_proxy
"""The server's own way to its model, under its locks."""


def read_model(path: str, **options: Any) -> tuple[ServerSettings, ModelSettings]:
    """Return the settings to serve one GGUF file with; options are llama_cpp.server's.

    The list of models has the file's name, not where it lies.

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

    Options are of its server part, and stand before what the file says.

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
    # Where it lies is nothing to clients: they get this name wherever they give none.
    model.model_alias = model.model_alias or Path(model.model).name
    # The app would read this file again, and its settings instead of these.
    os.environ.pop("CONFIG_FILE", None)
    try:
        app = server_app.create_app(server_settings=settings, model_settings=[model])
    except (ValueError, OSError, RuntimeError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0]
        raise EmoGuardError(f"{model.model} cannot be served: {first}") from error
    app.add_exception_handler(HTTPException, _answer_error)
    for kind in UNREADABLE:
        app.add_exception_handler(kind, _answer_unreadable)
    # FastAPI's later versions leave routes in their router, earlier ones copy them into the app.
    for route in (*app.routes, *server_app.router.routes):
        if isinstance(route, RouteErrorHandler):
            setattr(route, "error_message_wrapper", _failed)  # noqa: B010  (a method, for mypy)
    # Innermost: it reads bodies, which layers around it ask for a key and bound first.
    app.router.middleware_stack = NamedModel(app.router.middleware_stack, model.model_alias)
    # With one model the proxy never loads another: this is the one for good.
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
    """Hold the model's own lock wherever the app holds its locks, for other threads' sake."""
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

    # Completions call it by its name in the module, other routes have it as a dependency.
    server_app.get_llama_proxy = get_llama_proxy
    app.dependency_overrides[PLAIN_PROXY] = get_llama_proxy


def _stop(llm: Any) -> None:
    def refuse(_tokens: Any) -> None:
        raise RuntimeError("the server is shutting down")

    llm.eval = refuse


async def _answer_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer in the shape OpenAI's clients read; the app's other errors have it already."""
    assert isinstance(error, HTTPException)
    code = "invalid_api_key" if error.status_code == 401 else None
    return _error(error.status_code, error.detail, code, error.headers)


async def _answer_unreadable(_request: Request, error: Exception) -> JSONResponse:
    """Answer a body that is no JSON; the app would say that it failed itself.

    The app reads the body a second time to word its error, outside of what catches errors.
    """
    where = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
    return _error(400, f"the body: wanted JSON in UTF-8, got something else{where}", "invalid_json")


def _error(
    status: int, message: str, code: str | None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": told}, status, headers)


def _failed(error: Exception, body: Any = None) -> tuple[int, Any]:
    """Return status and error for what a route raised; log it without the request's words.

    The server's own function writes them to stderr: an error of validation quotes the body.
    """
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        how = ": send JSON with content-type: application/json" if key == "body" else ""
        return 400, _told(f"{key}: {first['msg']}{how}", "invalid_request_error")
    if isinstance(body, CreateCompletionRequest | CreateChatCompletionRequest):
        for pattern, answer in RouteErrorHandler.pattern_and_formatters.items():
            if match := pattern.search(str(error)):
                return answer(body, match)
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("a request failed with %s:\n%s", type(error).__name__, frames)
    return 500, _told(str(error), "internal_server_error")


def _told(message: str, kind: str) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": None}


@contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """Raise pydantic's first finding as an EmoGuardError."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise EmoGuardError(f"{what}: {key}: {first['msg']}") from error
