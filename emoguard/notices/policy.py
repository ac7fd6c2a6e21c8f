"""Defines the policy's section on notices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from emoguard.errors import EmoGuardError
from emoguard.notices import profiles, words
from emoguard.notices.profiles import Profile
from emoguard.policy import schema
from emoguard.policy.interval import Interval

MOST_CONVERSATIONS = 100_000
"""The most that `notices.keep_conversations` may be."""


@dataclass(frozen=True)
class NoticePolicy:
    """The section `notices` of a policy: profiles, channel, words.

    A steered response carries a notice, and so does one in which a label of `amplifying` rose, and
    every response if `prompted` is true. All other notices are due by profile.
    """

    profiles: tuple[str, ...] = ()
    """Profiles to follow, each for itself."""
    strictest_of: tuple[str, ...] = ()
    """Profiles to follow as one: the shortest of their intervals, and the demands of all."""
    known_minors: bool = False
    """Whether users are known to be minors: some profiles then demand more."""
    every_hours: Mapping[str, Annotated[float, Interval(above=0)]] = field(default_factory=dict)
    """Intervals by profile, which can only be shorter than the profile's own."""
    continuing_gap_minutes: Annotated[float, Interval(least=0, most=30)] = 30.0
    """A pause of this length ends an interaction; the next response starts another."""
    utc_offset_hours: Annotated[float, Interval(least=-14, most=14)] = 0.0
    """The users' time zone, for a profile that requires its notice once a calendar day."""
    amplifying: tuple[str, ...] = ()
    """Labels that make a response an amplifying one when they rise over the certified threshold."""
    prompted: bool = False
    """Whether the system prompt, or training, makes the model more expressive: warmer, say. Every
    response then carries a notice of that."""
    channel: Literal["field", "suffix"] = "field"
    """How a server gives notices: in the object `emoguard` beside the answer, or after its text."""
    locale: str = "en"
    """Language of the words."""
    text: Mapping[str, str] = field(default_factory=dict)
    """Own words by kind: ai, steered, amplified, prompted, and break for the sentence that suggests
    one."""
    state: str | None = None
    """File that remembers each conversation's notices over restarts; without one, every
    conversation is new after a restart."""
    keep_conversations: Annotated[int, Interval(least=1, most=MOST_CONVERSATIONS)] = 4096
    """Conversations to remember; one that was forgotten counts as new."""

    def __post_init__(self) -> None:
        schema.check(self)
        for name in self.every_hours:
            if name not in {*self.profiles, *self.strictest_of}:
                raise EmoGuardError(
                    f"notices.every_hours.{name:.60}: that profile is neither in profiles nor in "
                    "strictest_of"
                )
        self.words()
        self.followed()

    def followed(self) -> tuple[Profile, ...]:
        """Return the profiles in force, as the users and the operator's intervals have them.

        Raises:
            EmoGuardError: an unknown profile, or an interval that is longer than its own.

        """
        if not (self.profiles or self.strictest_of):
            return ()
        followed = [self._profile(name) for name in self.profiles]
        if self.strictest_of:
            followed.append(profiles.strictest([self._profile(name) for name in self.strictest_of]))
        return tuple(followed)

    def words(self) -> Mapping[str, str]:
        """Return the words by kind.

        Raises:
            EmoGuardError: an unknown kind or locale, or words that cannot be shown.

        """
        needed = [kind for kind in words.KINDS if kind != "prompted" or self.prompted]
        return words.chosen(self.locale, self.text, needed)

    def _profile(self, name: str) -> Profile:
        profile = profiles.shipped().get(name)
        profile = profile.for_minors() if self.known_minors else profile
        hours = self.every_hours.get(name)
        return profile if hours is None else profile.shortened(hours)
