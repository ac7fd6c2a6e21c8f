"""Texts that a model is about to read; too short ones are left out and counted."""

from __future__ import annotations

from collections.abc import Sequence

from emoguard.cli.screen import say
from emoguard.fit import extraction
from emoguard.fit.corpora import Text
from emoguard.probe.residuals import Residuals


def readable(door: Residuals, texts: Sequence[Text]) -> list[Text]:
    """Return the texts that are long enough to be read; say which are not."""
    kept = extraction.readable(door, texts)
    if len(kept) < len(texts):
        ids = set(map(id, kept))
        first = next(text for text in texts if id(text) not in ids)
        say(
            f"Left out {len(texts) - len(kept):,} of {len(texts):,} texts, which have fewer than "
            f"{extraction.SHORTEST} tokens: the first at {first.place}.",
            err=True,
        )
    return kept
