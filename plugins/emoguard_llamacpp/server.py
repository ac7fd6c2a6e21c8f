"""Opens llama_cpp.server's own app around one model, for `emoguard serve`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from llama_cpp.server import app as server_app
from llama_cpp.server.settings import ConfigFileSettings, ModelSettings, ServerSettings
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from emoguard import jsontext, regularfile
from emoguard.errors import EmoGuardError
from emoguard.policy import yamlfile
from emoguard.runtime.served import Served, check_reach

LARGEST = 2**20
"""Bytes of a config file."""


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
    # The app would read this file again, and its settings instead of these.
    os.environ.pop("CONFIG_FILE", None)
    try:
        app = server_app.create_app(server_settings=settings, model_settings=[model])
    except (ValueError, OSError, RuntimeError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0]
        raise EmoGuardError(f"{model.model} cannot be served: {first}") from error
    app.add_exception_handler(HTTPException, _answer_error)
    # With one model the proxy never loads another: this is the one for good.
    proxy: Any = server_app._llama_proxy  # noqa: SLF001
    llm = proxy._current_model  # noqa: SLF001
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


def _stop(llm: Any) -> None:
    def refuse(_tokens: Any) -> None:
        raise RuntimeError("the server is shutting down")

    llm.eval = refuse


async def _answer_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer in the shape OpenAI's clients read; the app's other errors have it already."""
    assert isinstance(error, HTTPException)
    code = "invalid_api_key" if error.status_code == 401 else None
    error_object = {
        "message": error.detail,
        "type": "invalid_request_error",
        "param": None,
        "code": code,
    }
    return JSONResponse({"error": error_object}, error.status_code, error.headers)


@contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """Raise pydantic's first finding as an EmoGuardError."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise EmoGuardError(f"{what}: {key}: {first['msg']}") from error
