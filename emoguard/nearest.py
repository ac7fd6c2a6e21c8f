"""Finds the known name nearest to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CLOSE = 0.8
"""Share of letters in common, in order, from which on one name is the other misspelt."""

PREFIX = 3
"""Letters that the beginning of a longer name has at least, such as `max_dose` of one."""


def near(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is close to `name`, or begins with it and no other does."""
    names = {each.casefold(): each for each in known}
    asked = name.strip().casefold()
    matches = difflib.get_close_matches(asked, names, n=1, cutoff=CLOSE)
    if not matches and len(asked) >= PREFIX:
        longer = [each for each in names if each.startswith(asked)]
        matches = longer if len(longer) == 1 else []
    return names[matches[0]] if matches else None


def hint(name: str, known: Iterable[str], kind: str) -> str:
    """Return a question for the near name, else all that is known of a `kind`, such as keys."""
    names = list(known)
    closest = near(name, names)
    return f"did you mean {closest}?" if closest else f"known {kind}: {', '.join(names) or 'none'}"
