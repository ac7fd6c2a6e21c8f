"""Types of ASGI, and functions on its headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


def header(headers: Headers, name: bytes) -> str | None:
    """Return the value of a header, or None; `name` is in lower case."""
    values = (value.decode("latin-1") for key, value in headers if key.lower() == name)
    return next(values, None)


def with_header(headers: Headers, name: bytes, value: str) -> list[tuple[bytes, bytes]]:
    """Return the headers with this one replacing those of its name, or at the end."""
    pairs = list(headers)
    places = [place for place, (key, _) in enumerate(pairs) if key.lower() == name]
    first = places[0] if places else len(pairs)
    kept = [pair for place, pair in enumerate(pairs) if place not in places]
    return [*kept[:first], (name, value.encode("latin-1")), *kept[first:]]


def without_header(headers: Headers, name: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers but those of this name."""
    return [(key, value) for key, value in headers if key.lower() != name]
