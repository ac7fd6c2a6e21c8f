"""Composes the `emoguard` object of one answer and follows its delivery."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from emoguard import wire
from emoguard.records import Channel, Report
from emoguard.runtime.watch import Watch
from emoguard_asgi.request import CompletionRequest

log = logging.getLogger("emoguard")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Additions:
    """The additions to an answer: a member of its JSON object, words for its text, a kind.

    `words` are empty where nothing goes into the text; `kind` is None without a notice.
    """

    member: bytes
    words: str
    kind: str | None


class NoticeDelivery:
    """Words the reports of a request for the wire and records whether they arrived.

    `reports` grows as they are made; several prompts or choices make several. A failure in here is
    logged and the answer is sent unchanged: at worst a notice is lost, which is counted, never an
    answer. `channel` is how the answer carries its additions, None until it does.
    """

    def __init__(
        self, watch: Watch, completion: CompletionRequest, reports: Sequence[Report]
    ) -> None:
        self._watch = watch
        self._completion = completion
        self._reports = reports
        self.channel: Channel | None = None
        self.standing = standing_kind(watch)

    def now(self) -> Additions | None:
        """Return the additions to an answer that ends now, None without any."""
        return guarded(self._now, None)

    def put(self, *, suffix: bool) -> None:
        """Record the channel of the answer: the suffix if both were used."""
        self.channel = "suffix" if suffix else (self.channel or "field")

    def settle(self, *, left: bool) -> None:
        """Settle every report so far as delivered, or as lost if the client left.

        The first settlement of a report stays.
        """
        guarded(lambda: self._settle(left=left), None)

    def end(self, *, complete: bool) -> None:
        """Declare the answer ended: notices not delivered by now are lost.

        The generation of an answer that is not complete may still run: it is abandoned.
        """
        guarded(lambda: self._abandon(complete=complete), None)
        self.settle(left=True)

    def _abandon(self, *, complete: bool) -> None:
        # The outbox remembers few abandoned calls: only those that may still make reports.
        if not (complete and self._reports):
            self._watch.abandon(self._completion.request.id)

    def _now(self) -> Additions | None:
        # Copied first: the generating thread appends.
        response = wire.response_object(list(self._reports), self._completion.scores)
        if response is None:
            return None
        notice = response["notice"]
        if notice is None and not response["steered"] and self._completion.scores == "none":
            return None
        member = json.dumps(wire.KEY) + ":" + json.dumps(response, allow_nan=False)
        words = notice["text"] if notice and self._completion.suffix else ""
        return Additions(member.encode("ascii"), words, notice["kind"] if notice else None)

    def _settle(self, *, left: bool) -> None:
        guard = self._watch.guard
        for report in guard.outbox.waiting(self._completion.request.call):
            if left or self.channel is None:
                guard.lost(report)
            else:
                guard.deliver(report, self.channel)


def standing_kind(watch: Watch) -> str | None:
    """Return the header's value before any report is known; None, no header, without profiles."""
    notices = watch.guard.policy.notices
    if notices.prompted:
        return "prompted"
    return "ai" if notices.profiles or notices.strictest_of else None


def guarded(make: Callable[[], Result], otherwise: Result) -> Result:
    """Return the result of `make`, or `otherwise` after logging its exception."""
    try:
        return make()
    except Exception:
        log.exception("a notice could not be given: the answer leaves as it came")
        return otherwise
