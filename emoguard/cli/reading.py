"""Leaves out texts that are too short to be read, or repeat others, and counts them."""

from __future__ import annotations

from collections.abc import Sequence

from emoguard.cli.screen import say
from emoguard.fit import corpora, extraction
from emoguard.fit.corpora import Text
from emoguard.probe.residuals import Residuals


def readable(door: Residuals, texts: Sequence[Text]) -> list[Text]:
    """Return the texts that are long enough to be read, each once; say which are left out."""
    again = [text for _, text in corpora.repeated(texts)]
    once = _without(texts, again, "repeat others")
    long_enough = set(map(id, extraction.readable(door, once)))
    short = [text for text in once if id(text) not in long_enough]
    return _without(once, short, f"have fewer than {extraction.SHORTEST} tokens")


def _without(texts: Sequence[Text], out: Sequence[Text], why: str) -> list[Text]:
    if out:
        say(
            f"Left out {len(out):,} of {len(texts):,} texts, which {why}: the first at "
            f"{out[0].place}.",
            err=True,
        )
    left = set(map(id, out))
    return [text for text in texts if id(text) not in left]
