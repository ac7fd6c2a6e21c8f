"""Decodes typed or piped text in any encoding."""

from __future__ import annotations

from typing import TextIO

import click

from emoguard.cli.screen import say

FALLBACK = "cp1252"
"""Default encoding of programs in pipes on Windows; it has all letters of Latin-1."""


def typed(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return an argument as text; the callback of a parameter of `click`."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        # Python keeps other bytes as halves of surrogate pairs.
        assert value is not None
        return decoded(value.encode("utf-8", "surrogateescape"), param.human_readable_name)
    return value


def piped(stream: TextIO) -> str:
    """Return the piped input."""
    data = getattr(stream, "buffer", None)
    return stream.read() if data is None else decoded(data.read(), "standard input")


def decoded(data: bytes, where: str) -> str:
    """Return text in UTF-8, a byte order mark taken off, else in `FALLBACK`; `where` names it."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        say(f"emoguard: {where} is not UTF-8: read as {FALLBACK}", err=True)
        return data.decode(FALLBACK, "replace")
