"""`emoguard serve`: runs the server of a model's runtime, watched."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import emoguard
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.hosts import in_url, is_loopback
from emoguard.runtime.openers import openers, recognise
from emoguard.runtime.served import Served, sinks_lacking

if TYPE_CHECKING:
    import uvicorn

COMMON = ("host", "port", "api_key")
"""Options that every server takes; each of the others belongs to one server."""

OF_BATCH = ("num_blocks", "max_batch_tokens", "max_memory_percent")
"""Options for continuous batching only."""

GRACE_SECONDS = 10
"""Seconds for running answers to end when the server stops."""


@click.command(short_help="Serve a model over HTTP, watched.")
@click.option("--model", "path", help="A model that its runtime can serve.")
@click.option(
    "--config", envvar="CONFIG_FILE", help="A config file of llama_cpp.server, with one model."
)
@click.option("--host", help="Where to listen; default: 127.0.0.1, or the config's.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: 8000, or the config's.")
@click.option(
    "--api-key",
    envvar="API_KEY",
    show_envvar=True,
    help="The key clients must send; on the command line others see it, so use the variable.",
)
@click.option("--policy", help="A policy file; it is followed while the server runs.")
@click.option("--probe", help="A probe file; default: the shipped one that fits.")
@click.option(
    "--context",
    "n_ctx",
    type=click.IntRange(1),
    help="GGUF: tokens of prompt and answer; default: 4096.",
)
@click.option("--threads", "n_threads", type=click.IntRange(1), help="GGUF: threads of llama.cpp.")
@click.option(
    "--gpu-layers",
    "n_gpu_layers",
    type=click.IntRange(-1),
    help="GGUF: layers on a GPU; -1: all.",
)
@click.option("--device", help="Folder: where the model runs; default: a GPU if there is one.")
@click.option("--dtype", help="Folder: dtype of the weights; default: that of the files.")
@click.option(
    "--continuous-batching", is_flag=True, default=None, help="Folder: answer requests together."
)
@click.option(
    "--cb-num-blocks",
    "num_blocks",
    type=click.IntRange(1),
    help="Continuous batching: blocks of the cache.",
)
@click.option(
    "--cb-max-batch-tokens",
    "max_batch_tokens",
    type=click.IntRange(1),
    help="Continuous batching: tokens per pass.",
)
@click.option(
    "--cb-max-memory-percent",
    "max_memory_percent",
    type=click.FloatRange(0, 1, min_open=True),
    help="Continuous batching: share of the memory for the cache.",
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
    help="Largest request body in MiB.",
)
@click.option(
    "--body-seconds",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="Seconds for a request's body to arrive.",
)
@click.option("--page", is_flag=True, help="A live page at /emoguard/: answers and their readings.")
@click.option(
    "--allow-host", "hosts", multiple=True, help="A name of this server, for /healthz and the page."
)
def serve(
    *,
    path: str | None,
    config: str | None,
    policy: str | None,
    probe: str | None,
    metrics_port: int,
    max_body_mib: float,
    body_seconds: float,
    page: bool,
    hosts: tuple[str, ...],
    **options: Any,
) -> None:
    """Serve a model as llama_cpp.server or `transformers serve` do, with EmoGuard attached to it.

    The API is the server's, at /v1; answers carry the object `emoguard` if the policy follows a
    notice profile. EmoGuard adds /healthz and /readyz, and /metrics on a port of its own. It reads
    only bodies of requests with the api_key, within limits. With --page a browser shows answers
    with their readings, and recent traffic; the page needs the api_key, too.
    """
    import uvicorn
    from emoguard_asgi import EmoGuardMiddleware, Health
    from emoguard_page import Page
    from starlette.middleware import Middleware

    served = _open(path, config, {k: v for k, v in options.items() if v is not None})
    notes = Screen(stderr=True)
    with contextlib.ExitStack() as stack:
        own = {"prometheus": {"port": metrics_port}} | ({"page": {}} if page else {})
        extra = sinks_lacking(policy, own)
        sinks = [{name: options} for name, options in extra.items()]
        guard = stack.enter_context(
            emoguard.open_guard(served.model, policy, probe, sinks=sinks, **served.options)
        )
        watch = stack.enter_context(emoguard.attach(served.model, guard, **served.options))
        stack.callback(served.stop)  # before the watch detaches
        layer = Middleware(
            EmoGuardMiddleware,
            watch=watch,
            api_key=served.api_key,
            max_body_bytes=math.ceil(max_body_mib * 1024 * 1024),
            body_seconds=body_seconds,
            every_route=True,
        )
        # Within the server's own layers: pages of other sites can read our errors, which have the
        # headers of CORS, and each has a request id.
        served.app.user_middleware.append(layer)
        app = served.app
        if page:
            app = Page(
                app,
                watch,
                api_key=served.api_key,
                hosts=hosts,
                is_open=lambda: not server.should_exit,
            )
        server = uvicorn.Server(
            uvicorn.Config(
                Health(app, lambda: server.started and not server.should_exit, hosts),
                host=served.host,
                port=served.port,
                ssl_keyfile=served.ssl_keyfile,
                ssl_certfile=served.ssl_certfile,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        if "prometheus" in extra and watch.enabled:
            notes.print(f"metrics at http://127.0.0.1:{metrics_port}/metrics")
        if page:
            notes.print(f"page at {_address(served)}/emoguard/")
        run_server(server)


def _open(path: str | None, config: str | None, options: dict[str, Any]) -> Served:
    """Open the server's app for a model, or for a config file of a runtime's server."""
    if (path is None) == (config is None):
        raise click.UsageError("give one of --model and --config")
    known = openers()
    if path is None:
        name = next(name for name, opener in known.items() if hasattr(opener, "open_config"))
    else:
        name = recognise(path)
    opener: Any = known[name]
    foreign = [each for each in options if each not in (*COMMON, *opener.SERVES)]
    if foreign:
        flags = ", ".join(map(_flag, foreign))
        raise click.UsageError(f"{flags}: not for {opener.FORMAT}")
    batch = [_flag(each) for each in options if each in OF_BATCH]
    if batch and not options.get("continuous_batching"):
        raise click.UsageError(f"{', '.join(batch)}: only with --continuous-batching")
    if path is not None:
        served: Served = opener.open_app(path, **options)
        return served
    of_model = [each for each in options if each.startswith("n_")]
    if of_model:
        raise click.UsageError(f"with --config, {', '.join(of_model)} belongs into that file")
    configured: Served = opener.open_config(config, **options)
    return configured


def _flag(name: str) -> str:
    """Return the spelling of an option on the command line."""
    context = click.get_current_context()
    return next(each.opts[0] for each in context.command.params if each.name == name)


def _address(served: Served) -> str:
    """Return the server's address for a browser on this machine."""
    host = served.host if is_loopback(served.host) else "127.0.0.1"
    scheme = "https" if served.ssl_certfile else "http"
    return f"{scheme}://{in_url(host)}:{served.port}"


def run_server(server: uvicorn.Server) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        EmoGuardError: the port cannot be opened.

    """
    with _returning_after_signals():
        try:
            server.run()
        except SystemExit as error:  # the reason is in its log
            place = f"{server.config.host} port {server.config.port}"
            raise EmoGuardError(
                f"the server could not listen on {place}: choose another port or host"
            ) from error


@contextlib.contextmanager
def _returning_after_signals() -> Iterator[None]:
    """Let uvicorn return: it re-raises the signal that stopped it, which would end this process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
