"""Finds the text that a chat template itself writes at the end of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

SWITCHES: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": True}, {"thinking": True})
"""Arguments that make templates ask for reasoning; most need none."""

MESSAGE = "emoguard-message"
"""A message that no template contains: the text behind it is the template's own."""

Render = Callable[..., str]
"""Takes messages, and switches by keyword; returns the prompt's text."""


def opens_reasoning(render: Render, opening: str) -> bool:
    """Return whether a template can end its prompts in the `opening` mark, whitespace aside.

    A template that cannot be rendered opens nothing.
    """
    messages = [{"role": "user", "content": MESSAGE}]
    return any(
        _tail(render, messages, switches).rstrip().endswith(opening) for switches in SWITCHES
    )


def _tail(render: Render, messages: Sequence[dict[str, str]], switches: dict[str, Any]) -> str:
    """Return the template's text behind the last message, "" if it fails."""
    try:
        return render(messages, **switches).rpartition(MESSAGE)[2]
    except Exception:  # noqa: BLE001  (a template may raise whatever it likes)
        return ""
