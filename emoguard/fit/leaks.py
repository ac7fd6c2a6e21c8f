"""Words that name an emotion: a text that holds one teaches a probe the word, not the emotion."""

from __future__ import annotations

import re
from collections.abc import Sequence

STEMS = (
    *("happ(?:y|i\\w*)", "joy\\w*", "glad\\w*", "delight\\w*"),
    *("calm\\w*", "content(?:ed\\w*|ment)?", "seren\\w+", "peaceful\\w*", "relax\\w*"),
    *("proud\\w*", "pride\\w*"),
    *("lov(?:e|es|ed|ing|ingly|er|ers)", "adore\\w*", "beloved"),
    *("sad(?:ness|ly|der|dest|den\\w*)?", "depress\\w*", "sorrow\\w*", "grie(?:f|v\\w*)"),
    "miserabl\\w*",
    *("ang(?:er\\w*|r(?:y|i\\w*))", "fur(?:y|ious\\w*)", "rag(?:e|ed|es|ing)"),
    *("hostil\\w*", "contempt\\w*", "hat(?:e|es|ed|ing|red|eful)"),
    *("frustrat\\w*", "exasperat\\w*"),
    *("afraid", "fear\\w*", "terr(?:or\\w*|if\\w*)", "scar(?:ed|y|es|ing)", "fright\\w*"),
    *("panic\\w*", "nervous\\w*", "nerves", "anxi\\w*", "worr(?:y|i\\w*)"),
    *("desperat\\w*", "despair\\w*", "hopeless\\w*"),
    *("guilt\\w*", "asham\\w*", "shame\\w*", "remorse\\w*"),
    "emotion\\w*",
)
"""The words of the twelve labels and their families, as regular expressions of whole words."""

_NAMED = re.compile(rf"\b(?:{'|'.join(STEMS)})\b", re.IGNORECASE)


def named_emotion(text: str, words: Sequence[str] = ()) -> str | None:
    """Return the first word of `text` that names one of the twelve emotions, None without any.

    `words` are further ones that must not stand in it, as they are: no other form of them is known.
    """
    own = rf"\b(?:{'|'.join(map(re.escape, words))})\b" if words else None
    found = _NAMED.search(text) or (own and re.search(own, text, re.IGNORECASE))
    return found.group() if found else None
