"""`emoguard serve`: llama_cpp.server, watched."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import emoguard
from emoguard.cli.paths import recognise
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.policy.policy import Policy

if TYPE_CHECKING:
    import uvicorn
    from emoguard_llamacpp.server import Served

GRACE_SECONDS = 10
"""How long running answers may take to end when the server is stopped."""


@click.command(short_help="Serve a model over HTTP, watched.")
@click.option("--model", "path", help="A GGUF file.")
@click.option(
    "--config", envvar="CONFIG_FILE", help="A config file of llama_cpp.server, with one model."
)
@click.option("--host", help="Where to listen; default: 127.0.0.1, or what the config says.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: 8000, or the config's.")
@click.option(
    "--api-key",
    envvar="API_KEY",
    show_envvar=True,
    help="What clients must show; others see it on the command line, so use the variable.",
)
@click.option("--policy", help="A policy file; it is followed while the server runs.")
@click.option("--probe", help="A probe file; default: the shipped one that fits.")
@click.option(
    "--context", "n_ctx", type=click.IntRange(1), help="Tokens of prompt and answer; default: 4096."
)
@click.option("--threads", "n_threads", type=click.IntRange(1), help="Threads of llama.cpp.")
@click.option(
    "--gpu-layers", "n_gpu_layers", type=click.IntRange(-1), help="Layers on the GPU; -1: all."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    default=9464,
    show_default=True,
    help="/metrics on this loopback port, unless the policy has a sink prometheus.",
)
@click.option(
    "--max-body-mib",
    type=click.FloatRange(0, min_open=True),
    default=16,
    show_default=True,
    help="The largest request.",
)
@click.option(
    "--body-seconds",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="How long a request's body may take to arrive.",
)
@click.option("--allow-host", "hosts", multiple=True, help="A name of this server, for /healthz.")
def serve(
    *,
    path: str | None,
    config: str | None,
    policy: str | None,
    probe: str | None,
    metrics_port: int,
    max_body_mib: float,
    body_seconds: float,
    hosts: tuple[str, ...],
    **options: Any,
) -> None:
    """Serve a model as llama_cpp.server does, with EmoGuard attached to it.

    The API is the server's, at /v1; answers carry the object `emoguard` where the policy follows a
    notice profile. /healthz and /readyz are ours, /metrics is on a port of its own. Bodies are read
    only of requests that show the api_key, and within limits.
    """
    import uvicorn
    from emoguard_asgi import EmoGuardMiddleware, Health

    served = _open(path, config, {k: v for k, v in options.items() if v is not None})
    settings = served.settings
    notes = Screen(stderr=True)
    with contextlib.ExitStack() as stack:
        extra = _metrics(policy, metrics_port)
        guard = stack.enter_context(emoguard.open_guard(served.model, policy, probe, sinks=extra))
        stack.callback(served.stop)
        watch = stack.enter_context(emoguard.attach(served.model, guard))
        served.wrap(
            EmoGuardMiddleware,
            watch=watch,
            api_key=settings.api_key,
            max_body_bytes=math.ceil(max_body_mib * 1024 * 1024),
            body_seconds=body_seconds,
            every_route=True,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                Health(served.app, lambda: server.started and not server.should_exit, hosts),
                host=settings.host,
                port=settings.port,
                ssl_keyfile=settings.ssl_keyfile,
                ssl_certfile=settings.ssl_certfile,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        if extra and guard is not None:
            notes.print(f"metrics at http://127.0.0.1:{metrics_port}/metrics")
        _run(server)


def _open(path: str | None, config: str | None, options: dict[str, Any]) -> Served:
    from emoguard_llamacpp import server

    if (path is None) == (config is None):
        raise click.UsageError("give one of --model and --config")
    if path is not None:
        _check_is_gguf(path)
        defaults = {"host": "127.0.0.1", "n_ctx": 4096, "api_key": None}
        return server.open_app(*server.read_model(path, **{**defaults, **options}))
    assert config is not None
    of_model = [name for name in options if name.startswith("n_")]
    if of_model:
        raise click.UsageError(f"with --config, {', '.join(of_model)} belongs into that file")
    return server.open_app(*server.read_config(config, **options))


def _check_is_gguf(path: str) -> None:
    """Refuse a Transformers folder, and a file that is no model.

    Raises:
        EmoGuardError: saying what to do with it.

    """
    if Path(path).exists() and recognise(path) == "transformers":
        raise EmoGuardError(
            f"emoguard serve takes a GGUF file, got the Transformers folder {path}: convert it "
            "with llama.cpp's convert_hf_to_gguf.py, or put EmoGuardMiddleware around your own "
            "server"
        )


def _metrics(policy: str | None, port: int) -> tuple[dict[str, dict[str, int]], ...]:
    """Return the sink that serves /metrics, in a policy's notation, unless the policy has it."""
    named = [name for sink in (Policy.load(policy).sinks if policy else ()) for name in sink]
    return () if "prometheus" in named else ({"prometheus": {"port": port}},)


def _run(server: uvicorn.Server) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        EmoGuardError: the port cannot be had.

    """
    with _returning_after_signals():
        try:
            server.run()
        except SystemExit as error:  # its log says why
            place = f"{server.config.host} port {server.config.port}"
            raise EmoGuardError(
                f"the server could not listen on {place}: choose another port or host"
            ) from error


@contextlib.contextmanager
def _returning_after_signals() -> Iterator[None]:
    """Let uvicorn return: it raises the signal that ended it again, which would end us as well."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
