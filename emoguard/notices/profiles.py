"""Loads AI disclosure laws as dated data: an engineer's reading, no legal advice."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from emoguard import nearest
from emoguard.errors import EmoGuardError

Start = Literal["conversation", "day", "interaction"]

STARTS: tuple[Start, ...] = ("conversation", "day", "interaction")
"""From the rarest to the most frequent."""


@dataclass(frozen=True)
class Profile:
    """The times at which one law requires users to learn that they talk with software.

    `start`: with the first response of a conversation, or of an interaction (after a pause, too),
    where "day" is as interaction but not twice on one calendar day. `unused_days`: again after so
    many days without a response. `every_hours`: again while the conversation goes on, None for
    never; the `minors_…` of users known to be minors, where they differ. `claim`: the law speaks of
    software that claims to be human, `question`: of users who ask. `in_force` is a date,
    `title` names the text that was read.
    """

    name: str
    title: str
    in_force: date
    start: Start
    unused_days: float | None = None
    every_hours: float | None = None
    minors_every_hours: float | None = None
    minors_break_reminder: bool = False
    claim: bool = False
    question: bool = False
    break_reminder: bool = False

    def for_minors(self) -> Profile:
        """Return the profile as the law applies it to known minors."""
        return replace(
            self,
            every_hours=shortest(self.every_hours, self.minors_every_hours),
            break_reminder=self.break_reminder or self.minors_break_reminder,
        )

    def shortened(self, hours: float) -> Profile:
        """Return the profile with a shorter interval.

        Raises:
            EmoGuardError: not a length, or longer than the law's.

        """
        if not hours > 0:  # also for NaN
            raise EmoGuardError(
                f"notices.every_hours.{self.name}: wanted more than 0 hours, got {hours:g}"
            )
        if self.every_hours is not None and hours > self.every_hours:
            raise EmoGuardError(
                f"notices.every_hours.{self.name}: intervals may only be shortened: wanted at most "
                f"{self.every_hours:g} hours, got {hours:g}"
            )
        return replace(self, every_hours=hours)


@dataclass(frozen=True)
class Profiles:
    """The profiles that come with EmoGuard; `read` is the date of the last look at the sources."""

    version: int
    read: date
    by_name: Mapping[str, Profile]

    def get(self, name: str) -> Profile:
        """Return a profile.

        Raises:
            EmoGuardError: there is no such profile; the message suggests the nearest name.

        """
        if name not in self.by_name:
            hint = nearest.hint(name, self.by_name, "profiles")
            raise EmoGuardError(f"notices: {name:.60} is no profile; {hint}")
        return self.by_name[name]


@functools.cache
def shipped() -> Profiles:
    """Return the shipped profiles, read once."""
    data = json.loads((files("emoguard") / "notices" / "profiles.json").read_bytes())
    profiles = {name: _profile(name, fields) for name, fields in data["profiles"].items()}
    return Profiles(data["version"], date.fromisoformat(data["read"]), MappingProxyType(profiles))


def strictest(profiles: Sequence[Profile]) -> Profile:
    """Return one profile with every demand of any of `profiles` (at least one)."""
    return Profile(
        name="+".join(each.name for each in profiles),
        title="; ".join(each.title for each in profiles),
        in_force=min(each.in_force for each in profiles),
        start=max((each.start for each in profiles), key=STARTS.index),
        unused_days=shortest(*(each.unused_days for each in profiles)),
        every_hours=shortest(*(each.every_hours for each in profiles)),
        minors_every_hours=shortest(*(each.minors_every_hours for each in profiles)),
        minors_break_reminder=any(each.minors_break_reminder for each in profiles),
        claim=any(each.claim for each in profiles),
        question=any(each.question for each in profiles),
        break_reminder=any(each.break_reminder for each in profiles),
    )


def shortest(*lengths: float | None) -> float | None:
    """Return the shortest of some lengths, where None is endless."""
    return min((each for each in lengths if each is not None), default=None)


def _profile(name: str, fields: Mapping[str, Any]) -> Profile:
    return Profile(name, **{**fields, "in_force": date.fromisoformat(fields["in_force"])})
