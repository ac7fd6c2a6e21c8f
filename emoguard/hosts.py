"""Decides which hosts and origins may use a server without a password."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection


def is_loopback(host: str) -> bool:
    """Return whether a server on `host` can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def in_url(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_own(host: str, origin: str | None, names: Collection[str] = ()) -> bool:
    """Return whether a request names this server and does not come from another site's page.

    `host` and `origin` are its headers. A page can make a browser send a request anywhere, but it
    can neither choose `Host` nor leave `Origin` out. Anybody may own a host name that leads here
    (DNS rebinding): only addresses, localhost and `names` (in lower case) are trusted.
    """
    name, _, port = host.rpartition(":")
    name = (name if port.isdigit() else host).lower()
    known = name in names or name == "localhost" or _is_address(name)
    return known and (origin is None or origin.partition("://")[2] == host)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
