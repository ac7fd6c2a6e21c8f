"""Decides from the headers whether to read a body, and bounds the bodies held at one time."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from emoguard.errors import EmoGuardError
from emoguard_asgi.asgi import Headers, header
from emoguard_asgi.error import RefusedError

Keys = str | Sequence[str] | None
"""A bearer token, or several of which each is one; None, or no token, where none is required."""

FULL_BODIES = 8
"""Bodies of the largest size that are held at one time."""


class Gate:
    """Asks for the key first, then holds bodies to limits.

    `api_key`: the bearer token to require, or several, if any. A body has at most `body_bytes`,
    arrives within `body_seconds`, and all bodies whose requests are not answered yet have at most
    eight times `body_bytes` together.

    Raises:
        EmoGuardError: a key that is empty, a limit that is not positive.

    """

    def __init__(self, api_key: Keys, body_bytes: int, body_seconds: float) -> None:
        keys = (api_key,) if isinstance(api_key, str) else tuple(api_key or ())
        if not all(key.strip() for key in keys):
            raise EmoGuardError("the api_key is empty: give one, or None to ask for none")
        if not (body_bytes > 0 and body_seconds > 0):
            raise EmoGuardError(
                "wanted positive limits of a request's body, got "
                f"{body_bytes} bytes and {body_seconds} seconds"
            )
        self._keys = tuple(map(_encoded, keys))
        self._free = FULL_BODIES * body_bytes
        self._body_bytes = body_bytes
        self.body_seconds = body_seconds

    def check(self, headers: Headers) -> None:
        """Raise unless the body behind these headers may be read.

        Raises:
            RefusedError: 401 without the key, 413 with a body that is announced too large.

        """
        if self._keys and not self._knows(_bearer(headers)):
            raise RefusedError(401, "Invalid API key", code="invalid_api_key")
        length = header(headers, b"content-length") or ""
        if length.isascii() and length.isdigit() and not self._fits(length):
            raise self.too_large()

    def take(self, size: int, held: int) -> None:
        """Make room for `size` more bytes of a body of which `held` are held already.

        Raises:
            RefusedError: 413 beyond the largest body, 503 while other bodies leave no room.

        """
        if held + size > self._body_bytes:
            raise self.too_large()
        if size > self._free:
            raise RefusedError(
                503,
                "the server holds as many requests as it may: send this one again",
                code="server_busy",
                headers=[(b"retry-after", b"1")],
            )
        self._free -= size

    def give_back(self, size: int) -> None:
        """Give back the room of a body whose request is answered."""
        self._free += size

    def too_slow(self) -> RefusedError:
        """Return the error for a body that did not arrive in time."""
        return RefusedError(
            408,
            f"the body did not arrive within {self.body_seconds:g} seconds: send it again",
            code="request_timeout",
        )

    def too_large(self) -> RefusedError:
        """Return the error for a body of more bytes than one may have."""
        return RefusedError(
            413,
            f"wanted a body of at most {self._body_bytes} bytes, got more: send less",
            code="request_too_large",
        )

    def _knows(self, token: bytes) -> bool:
        # Every key is compared: the time says nothing about which one came close.
        matches = [hmac.compare_digest(token, key) for key in self._keys]
        return any(matches)

    def _fits(self, length: str) -> bool:
        # Python reads no number of more than 4,300 digits.
        digits = length.lstrip("0")
        return len(digits) < 20 and int(digits or "0") <= self._body_bytes


def _bearer(headers: Headers) -> bytes:
    scheme, _, token = (header(headers, b"authorization") or "").partition(" ")
    return _encoded(token) if scheme.lower() == "bearer" else b""


def _encoded(key: str) -> bytes:
    """Return a key as bytes to compare; white space around it is dropped, as it cannot be sent."""
    return key.strip().encode("utf-8", "surrogatepass")
