"""Describes a server's own app around one model, as a plug-in opens it for `emoguard serve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.hosts import is_loopback
from emoguard.policy.policy import Policy


@dataclass(frozen=True)
class Served:
    """An ASGI app, the one model that answers in it, and where to listen.

    `app` is a Starlette or FastAPI app that has not served yet, `options` are those of
    `emoguard.attach` for `model`. `stop` ends an abandoned generation at its next token: a pass of
    the model cannot be broken off, and the process would wait for it.
    """

    app: Any
    model: Any
    host: str
    port: int
    stop: Callable[[], None]
    api_key: str | None = None
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def sinks_lacking(
    policy: str | None, sinks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Return a server's own sinks, options by name, but those that its policy file has itself.

    Raises:
        EmoGuardError: a policy file that is not sound.

    """
    named = {name for sink in (Policy.load(policy).sinks if policy else ()) for name in sink}
    return {name: options for name, options in sinks.items() if name not in named}


def check_reach(host: str, api_key: str | None) -> None:
    """Refuse to listen where others can reach the server without a key.

    Raises:
        EmoGuardError: there is no key for such a host, or it is empty.

    """
    if api_key is not None and not api_key.strip():
        raise EmoGuardError("the api_key is empty: give one, or none on a loopback host")
    if api_key is None and not is_loopback(host):
        raise EmoGuardError(
            f"host {host or 'everywhere'} can be reached from other machines: give an api_key "
            "(environment variable API_KEY), or listen on 127.0.0.1"
        )
