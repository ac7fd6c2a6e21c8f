"""Words the verdict by rule from the tested contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emoguard.study.contrasts import Tested


def sentence(tested: Sequence[Tested]) -> str:
    """Return the claims that hold, fail or could not be tested, with the items needed."""
    if not tested:
        return "No confirmatory contrast was named: everything here is exploratory."
    parts = []
    for verdict, verb in (("holds", "hold"), ("fails", "fail"), ("untested", "")):
        some = [each for each in tested if each.verdict == verdict]
        if not some:
            continue
        how = verb or "could not be tested"
        parts.append(f"{len(some)} {how} ({'; '.join(map(_named, some))})")
    return f"Of {len(tested)} claims named before the run, {', '.join(parts)}."


def _named(each: Tested) -> str:
    if each.verdict == "untested":
        return f"{each.name}: {each.why}"
    return each.name
