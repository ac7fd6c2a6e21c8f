"""Loads the words of notices, by kind and language."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from emoguard.errors import EmoGuardError

KINDS = ("ai", "steered", "amplified", "prompted", "break")
LONGEST = 500
"""Most characters of one text."""


def version() -> int:
    """Return the version of the shipped words."""
    return int(_shipped()["version"])


def chosen(locale: str, own: Mapping[str, str], needed: Sequence[str] = KINDS) -> Mapping[str, str]:
    """Return the words by kind in a language, an operator's `own` before the shipped ones.

    `needed` are the kinds that a notice may use.

    Raises:
        EmoGuardError: an unknown kind, a language that is neither shipped nor given in full, or
            words that cannot be shown.

    """
    for kind, text in own.items():
        _check(kind, text)
    shipped = _shipped()["locales"]
    missing = [kind for kind in needed if kind not in own]
    if locale not in shipped and missing:
        known = ", ".join(shipped)
        raise EmoGuardError(
            f"notices.locale: no words in {locale:.60} come with EmoGuard, only in {known}: give "
            f"your own in notices.text for {', '.join(missing)}"
        )
    return MappingProxyType({**shipped.get(locale, {}), **own})


def _check(kind: str, text: str) -> None:
    if kind not in KINDS:
        raise EmoGuardError(f"notices.text.{kind:.60}: unknown; kinds of words: {', '.join(KINDS)}")
    if not text.strip() or len(text) > LONGEST or not text.isprintable():
        raise EmoGuardError(
            f"notices.text.{kind}: wanted one line of 1 to {LONGEST} printable characters, "
            f"got {len(text)}: {text!r:.60}"
        )


@functools.cache
def _shipped() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((files("emoguard") / "notices" / "words.json").read_bytes())
    return data
