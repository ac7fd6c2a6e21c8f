"""Finds the known name nearest to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CLOSE = 0.8
"""Share of letters in common, in order, above which a name counts as a misspelling of another."""

PREFIX = 3
"""Fewest letters that count as an abbreviation of a longer name, as in `max_dose`."""


def near(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or the only one that begins with it."""
    names = {each.casefold(): each for each in known}
    wanted = name.strip().casefold()
    matches = difflib.get_close_matches(wanted, names, n=1, cutoff=CLOSE)
    if not matches and len(wanted) >= PREFIX:
        longer = [each for each in names if each.startswith(wanted)]
        matches = longer if len(longer) == 1 else []
    return names[matches[0]] if matches else None


def hint(name: str, known: Iterable[str], kind: str) -> str:
    """Return a question with the nearest name, or all known names of a `kind`, such as keys."""
    names = list(known)
    closest = near(name, names)
    return f"did you mean {closest}?" if closest else f"known {kind}: {', '.join(names) or 'none'}"
