"""Defines the policy of an operator: written in YAML, frozen when read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Annotated, Any, ClassVar, Literal

from emoguard.errors import EmoGuardError
from emoguard.notices.policy import NoticePolicy
from emoguard.policy import schema
from emoguard.policy.interval import Interval
from emoguard.sinks.policy import AlarmPolicy, DriftPolicy
from emoguard.steering.policy import SteeringPolicy


@dataclass(frozen=True)
class RequestPolicy:
    """Permissions of requests over a server's wire; code in this process needs none."""

    plan: bool = False
    """Whether it may bring a steering plan of its own, within the steering policy."""
    scores: bool = False
    """Whether it may ask for scores, of the response or of each token."""
    channel: bool = False
    """Whether it may choose between the channels field and suffix."""
    conversation: bool = False
    """Whether it may name its conversation; a client that names another's can keep its notices from
    being due."""

    def __post_init__(self) -> None:
        schema.check(self)


@dataclass(frozen=True)
class PagePolicy:
    """The section `page`: the parts of other people's responses on the live page, never text."""

    curves: bool = False
    """Whether others see the scores of a response while it is being generated. Without it the
    operator's view has one rank per label and finished response."""

    def __post_init__(self) -> None:
        schema.check(self)


@dataclass(frozen=True)
class Policy:
    """The behaviour of EmoGuard around one model. Every key may be left out."""

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
    """Labels to read and report, in this order; empty: all of the probe."""
    alarms: AlarmPolicy = field(default_factory=AlarmPolicy)
    """The section `alarms`: when a label fires, and the consequences."""
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    """The section `drift`: how far this site's own traffic may move."""
    steering: SteeringPolicy = field(default_factory=SteeringPolicy)
    """The section `steering`: the bound, and the plan of every response."""
    requests: RequestPolicy = field(default_factory=RequestPolicy)
    """The section `requests`: permissions of requests over a server's wire."""
    notices: NoticePolicy = field(default_factory=NoticePolicy)
    """The section `notices` of a policy: profiles, channel, words."""
    page: PagePolicy = field(default_factory=PagePolicy)
    """The section `page`: the parts of other people's responses on the live page."""
    on_unsupported: Literal["refuse", "skip"] = "refuse"
    """Generation modes without one reading per token (beam search, assisted decoding) are refused
    before anything is generated, or run and are reported as skipped."""
    sample_ratio: Annotated[float, Interval(least=0, most=1)] = 1.0
    """Share of plain responses that reach the sinks, chosen by request id. Every response that was
    steered, halted, faulty or carries a notice reaches them, too, but rates, ranks and drift use
    the share only; the watch keeps all reports."""
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
            EmoGuardError: the message names the unknown or wrong key, and the nearest known one.

        """
        from emoguard.policy import yamlfile  # noqa: PLC0415  (only a policy file needs it)

        return cls.parse(yamlfile.read(path), str(path))

    @classmethod
    def parse(cls, data: Any, source: str = "policy") -> Policy:
        """Return the policy described by plain data from YAML or JSON, or a policy unchanged.

        Raises:
            EmoGuardError: the message names the unknown or wrong key, and the nearest known one.

        """
        return schema.parse(cls, {} if data is None else data, source)

    def monitored(self, verdicts: Mapping[str, str | None]) -> tuple[str, ...]:
        """Return the labels that may alarm and that sinks see: named ones, else usable ones.

        `verdicts` has every label that is read. One that was never validated (None) counts as
        usable; any other verdict is watched only if the policy says so.
        """
        return self.labels or tuple(
            label
            for label, verdict in verdicts.items()
            if verdict in (None, "usable") or label in self.notices.amplifying
        )

    def samples(self, request_id: str) -> bool:
        """Return whether this request belongs to the sample; the same on every replica.

        Pure: the first 8 bytes of BLAKE2b of the id, as a share of 2**64, against `sample_ratio`.
        """
        digest = hashlib.blake2b(request_id.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest) < self.sample_ratio * 2**64
