"""The known name that an unknown one was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CLOSE = 0.8
"""Share of letters in common, in order, from which on two names are a name and its misspelling."""

PREFIX = 3
"""Letters that the beginning of a longer name has at least, such as `max_dose` of one."""


def hint(name: str, known: Iterable[str], kind: str) -> str:
    """Return a question for the name that is close to `name`, else all `known` ones of a `kind`."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=CLOSE)
    if not near and len(name) >= PREFIX:
        near = [each for each in names if each.startswith(name)]
    if len(near) == 1:
        return f"did you mean {near[0]}?"
    return f"known {kind}: {', '.join(names) or 'none'}"
