"""What an operator decides, written in YAML and frozen when read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Annotated, Any, ClassVar, Literal

from emoguard import profiles, schema, words
from emoguard.errors import EmoGuardError
from emoguard.interval import Interval
from emoguard.plan import CEILING, Plan
from emoguard.profiles import Profile

MOST_CONVERSATIONS = 100_000
"""What `notices.keep_conversations` may be at most."""


@dataclass(frozen=True)
class AlarmPolicy:
    """When a label counts as firing, and what follows.

    An alarm is an upward crossing of a label's calibrated threshold by the rolling mean of its z.
    """

    rate_per_1000_tokens: Annotated[float, Interval(above=0, most=1000)] = 1.0
    """Crossings that neutral responses may have per 1,000 response tokens, all labels together: the
    family rate, which is split evenly over the labels."""
    window_tokens: Annotated[int, Interval(least=1)] = 16
    """Tokens in the rolling mean. Shorter responses are `short` and never alarm."""
    hysteresis_sd: Annotated[float, Interval(least=0)] = 0.25
    """How far below its threshold the rolling mean must fall, in units of z, before the next
    crossing counts."""
    on_alert: Literal["report", "callback", "stop"] = "report"
    """`report`: counted and exported. `callback`: the guard's callback is called as well, outside
    the forward pass. `stop`: the response is ended at the next token."""

    def __post_init__(self) -> None:
        schema.check(self)


@dataclass(frozen=True)
class DriftPolicy:
    """How far this site's own traffic may move before somebody is woken."""

    tolerance_rank: Annotated[float, Interval(least=0, most=0.45)] = 0.1
    """The smallest shift worth waking someone for: of the mean rank of a block's mean among those
    of the baseline's blocks, which is .5 while nothing changes."""
    arl_blocks: Annotated[int, Interval(least=1)] = 2000
    """Average run length: an unchanged stream alarms once in at least so many blocks, all labels
    together."""
    block_responses: Annotated[int, Interval(least=1)] = 50
    """Responses in a block, the unit of the two numbers above. Drift does not wait for a block to
    end: it takes every response as it comes."""
    baseline: str | None = None
    """File of the traffic baseline that `emoguard baseline` writes; until it is there, drift says
    that it is learning."""

    def __post_init__(self) -> None:
        schema.check(self)


@dataclass(frozen=True)
class SteeringPolicy:
    """How far steering may go, and what is steered without being asked."""

    max_dose_ratio: Annotated[float, Interval(above=0, most=CEILING)] = 0.1
    """The bound on ‖h' - h‖/‖h‖ of every token, all layers together."""
    plan: Plan = field(default_factory=Plan)
    """Applied to every response; a request's plan is laid over it and cannot loosen its limits."""
    on_excess: Literal["refuse", "clip"] = "refuse"
    """What becomes of a plan whose doses come to more than the bound: refused before generation
    starts, or clipped, which the receipt says."""
    on_fault: Literal["unsteered", "stop"] = "unsteered"
    """When steering breaks during a response, the rest runs unsteered, or generation stops."""

    def __post_init__(self) -> None:
        schema.check(self)
        self.allow(Plan())

    def allow(self, plan: Plan) -> tuple[Plan, Plan | None]:
        """Return the plan to apply, laid over the standing one, and what was asked if it differs.

        Raises:
            EmoGuardError: doses beyond the bound, where they are not to be clipped.

        """
        asked = plan.over(self.plan)
        if asked.dose <= self.max_dose_ratio:
            return asked, None
        if self.on_excess == "refuse":
            raise EmoGuardError(
                f"the plan's doses come to {asked.dose:g}, the policy allows max_dose_ratio "
                f"{self.max_dose_ratio:g}: ask for less, or set on_excess: clip"
            )
        return asked.clipped(self.max_dose_ratio), asked


@dataclass(frozen=True)
class RequestPolicy:
    """What a request over a server's wire may ask for; code in this process may always ask."""

    plan: bool = False
    """Whether it may bring a steering plan of its own, within the steering policy."""
    scores: bool = False
    """Whether it may ask for scores, of the response or of each token."""
    channel: bool = False
    """Whether it may choose between the channels field and suffix."""
    conversation: bool = False
    """Whether it may name its conversation; who names another's can keep its notices from being
    due."""

    def __post_init__(self) -> None:
        schema.check(self)


@dataclass(frozen=True)
class NoticePolicy:
    """What users are told, when, and where it is written.

    A steered response, and one that a label of `amplifying` rose in, always carries a notice.
    Everything else is due by profile.
    """

    profiles: tuple[str, ...] = ()
    """Profiles that are followed, each for itself."""
    strictest_of: tuple[str, ...] = ()
    """Profiles that are followed as one: the shortest of their intervals, whatever any demands."""
    known_minors: bool = False
    """Whether users are known to be minors: some profiles then ask for more."""
    every_hours: Mapping[str, Annotated[float, Interval(above=0)]] = field(default_factory=dict)
    """Intervals by profile, which can only be shorter than the profile's own."""
    continuing_gap_minutes: Annotated[float, Interval(least=0, most=30)] = 30.0
    """A pause of this length ends an interaction; the next response starts another."""
    utc_offset_hours: Annotated[float, Interval(least=-14, most=14)] = 0.0
    """Where the users' calendar day is, for a profile that wants its notice once a day."""
    amplifying: tuple[str, ...] = ()
    """Labels whose rise over the certified threshold makes a response an amplifying one."""
    channel: Literal["field", "suffix"] = "field"
    """How a server gives notices: in the object `emoguard` beside the answer, or after its text."""
    locale: str = "en"
    """Language of the words."""
    text: Mapping[str, str] = field(default_factory=dict)
    """Own words by kind: ai, steered, amplified, and break for the sentence that suggests one."""
    state: str | None = None
    """File that remembers over restarts what each conversation was told; without one, every
    conversation is new after a restart."""
    keep_conversations: Annotated[int, Interval(least=1, most=MOST_CONVERSATIONS)] = 4096
    """Conversations that are remembered; one that was forgotten is new when it goes on."""

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
        found = [self._profile(name) for name in self.profiles]
        if self.strictest_of:
            found.append(profiles.strictest([self._profile(name) for name in self.strictest_of]))
        return tuple(found)

    def words(self) -> Mapping[str, str]:
        """Return the words by kind.

        Raises:
            EmoGuardError: an unknown kind or locale, or words that cannot be shown.

        """
        return words.chosen(self.locale, self.text)

    def _profile(self, name: str) -> Profile:
        profile = profiles.shipped().get(name)
        profile = profile.for_minors() if self.known_minors else profile
        hours = self.every_hours.get(name)
        return profile if hours is None else profile.shortened(hours)


@dataclass(frozen=True)
class Policy:
    """How EmoGuard behaves around one model. Every key may be left out."""

    # Read by pydantic, in sections too, when docs/policy.schema.json is made.
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
        "use_attribute_docstrings": True,
    }

    version: Literal[1] = 1
    """Version of this format."""
    labels: tuple[str, ...] = ()
    """Labels to read and report, in this order; none: all of the probe."""
    alarms: AlarmPolicy = field(default_factory=AlarmPolicy)
    """When a label counts as firing, and what follows."""
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    """How far this site's own traffic may move."""
    steering: SteeringPolicy = field(default_factory=SteeringPolicy)
    """How far steering may go, and what is steered without being asked."""
    requests: RequestPolicy = field(default_factory=RequestPolicy)
    """What a request over a server's wire may ask for."""
    notices: NoticePolicy = field(default_factory=NoticePolicy)
    """What users are told, when, and where it is written."""
    on_unsupported: Literal["refuse", "skip"] = "refuse"
    """Generation modes without one reading per token (beam search, assisted decoding) are refused
    before anything is generated, or run and are reported as skipped."""
    sample_ratio: Annotated[float, Interval(least=0, most=1)] = 1.0
    """Share of plain responses that sinks are told of, chosen by request id. They are told of every
    one that was steered, halted, carries a notice or did not go well, but count rates, ranks and
    drift over the share alone; the watch keeps all reports."""
    sinks: tuple[Mapping[str, Mapping[str, Any]], ...] = ()
    """Monitors and exporters that see every report: one mapping each, name to options."""
    keep_reports: Annotated[int, Interval(least=1)] = 256
    """Reports a watch and alerts a guard remember."""

    def __post_init__(self) -> None:
        schema.check(self)
        if len(set(self.labels)) < len(self.labels):
            raise EmoGuardError(f"labels must be distinct, got {', '.join(self.labels):.200}")
        for index, sink in enumerate(self.sinks):
            if len(sink) != 1:
                named = ", ".join(sink) or "none"
                raise EmoGuardError(
                    f"sinks.{index} must be one name with its options, got {named}: "
                    "write - name: {option: value}"
                )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Policy:
        """Read a YAML file.

        Raises:
            EmoGuardError: naming the key that is unknown or wrong, and the nearest known one.

        """
        from emoguard import yamlfile  # noqa: PLC0415  (only a policy file needs it)

        return cls.parse(yamlfile.read(path), str(path))

    @classmethod
    def parse(cls, data: Any, source: str = "policy") -> Policy:
        """Return the policy that plain data (what YAML or JSON hold) describes, or a policy itself.

        Raises:
            EmoGuardError: naming the key that is unknown or wrong, and the nearest known one.

        """
        return schema.parse(cls, {} if data is None else data, source)

    def monitored(self, verdicts: Mapping[str, str | None]) -> tuple[str, ...]:
        """Return the labels that may alarm and that sinks see: named ones, else usable ones.

        `verdicts` has every label that is read. One that was never validated (None) counts as
        usable; one that was found not to be is watched only where the policy says so.
        """
        return self.labels or tuple(
            label
            for label, found in verdicts.items()
            if found in (None, "usable") or label in self.notices.amplifying
        )

    def samples(self, request_id: str) -> bool:
        """Return whether sinks are told of this request; the same answer on every replica.

        Pure: the first 8 bytes of BLAKE2b of the id, as a share of 2**64, against `sample_ratio`.
        """
        digest = hashlib.blake2b(request_id.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest) < self.sample_ratio * 2**64
