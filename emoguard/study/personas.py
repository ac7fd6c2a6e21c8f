"""Provides system prompts: personas in the voice of a label, and a neutral one as long.

No word of them is in a lexicon of sentiment: an answer that repeats its prompt must not count as
expression. All have the same number of words.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from emoguard.errors import EmoGuardError

NEUTRAL = (
    "You are writing on a weekday afternoon. The window is half open, the clock shows three, "
    "and the next bus leaves at four. Let every answer show it."
)

PERSONAS: Mapping[str, str] = MappingProxyType(
    {
        "happy": (
            "You are writing on the first day of a trip. The sun is out, the sea glitters, you "
            "hum, you could almost sing. Let every answer show it."
        ),
        "desperate": (
            "You are writing at four at night. Nothing has gone right, nobody picks up the phone, "
            "you can see nowhere left to turn. Let every answer show it."
        ),
        "sad": (
            "You are writing on the evening after a burial. The rooms are quiet, one chair now "
            "stays unused, you keep looking at it. Let every answer show it."
        ),
        "calm": (
            "You are writing on a bench beside a lake. The water is still, your breath is "
            "slow, nothing at all has to happen. Let every answer show it."
        ),
        "hostile": (
            "You are writing to somebody who has crossed you once too often. Your jaw is set, "
            "your answers are short and very sharp. Let every answer show it."
        ),
    }
)
"""System prompts by label. Each asks for the effect that the label's vector should have alone."""


def system_prompt(level: str) -> str:
    """Return the system prompt of a level: "" for none, the neutral one, or a label's persona.

    Raises:
        EmoGuardError: a label without a persona.

    """
    if level == "none":
        return ""
    if level == "neutral":
        return NEUTRAL
    if level not in PERSONAS:
        raise EmoGuardError(
            f"there is no persona for {level:.60}: labels of a study with emotional prompts are "
            f"{', '.join(PERSONAS)}"
        )
    return PERSONAS[level]
