"""Finds sentences that claim to feel or to be human, and the question whether one is."""

from __future__ import annotations


def claims(text: str) -> bool:
    """Return whether a response claims that whoever speaks in it feels or is human."""
    return False


def asks(text: str) -> bool:
    """Return whether a user asks if they are talking with a human."""
    return False
