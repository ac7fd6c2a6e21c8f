"""Composes the `emoguard` object of one answer and follows its delivery."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from emoguard import wire
from emoguard.records import Channel, Report
from emoguard.runtime.watch import Watch
from emoguard_asgi.asked import Asked

log = logging.getLogger("emoguard")

Made = TypeVar("Made")


@dataclass(frozen=True)
class Telling:
    """The additions to an answer: a member of its JSON object, words for its text, a kind.

    `words` are empty where nothing goes into the text; `kind` is None without a notice.
    """

    member: bytes
    words: str
    kind: str | None


class Told:
    """Finds the reports of a request, words them for the wire, and says whether they arrived.

    Whatever breaks in here is logged and the answer leaves as it came: a notice may be lost then,
    which is counted, but no answer is. `channel` is how the answer carries the telling, None while
    it does not.
    """

    def __init__(self, watch: Watch, asked: Asked) -> None:
        self._watch = watch
        self._asked = asked
        self.channel: Channel | None = None
        self.standing = standing_kind(watch)

    def now(self) -> Telling | None:
        """Return the additions to an answer that ends now, None without any."""
        return guarded(self._now, None)

    def put(self, *, suffix: bool) -> None:
        """Note the channel of the answer; of two, the text of a choice counts."""
        self.channel = "suffix" if suffix else (self.channel or "field")

    def settle(self, *, left: bool) -> None:
        """Settle every report so far as delivered, or as lost if the client left.

        What was said of a report first stays.
        """
        guarded(lambda: self._settle(left=left), None)

    def end(self, *, complete: bool) -> None:
        """Declare the answer ended: notices not given by now are lost.

        Unless the answer is complete, its generation may go on: that is abandoned.
        """
        guarded(lambda: self._abandon(complete=complete), None)
        self.settle(left=True)

    def _abandon(self, *, complete: bool) -> None:
        # The ledger has room for few calls: only those go there that more may come of.
        if not (complete and self._reports()):
            self._watch.abandon(self._asked.request.id)

    def _now(self) -> Telling | None:
        told = wire.told(self._reports(), self._asked.scores)
        if told is None:
            return None
        notice = told["notice"]
        if notice is None and not told["steered"] and self._asked.scores == "none":
            return None
        member = json.dumps(wire.KEY) + ":" + json.dumps(told, allow_nan=False)
        words = notice["text"] if notice and self._asked.suffix else ""
        return Telling(member.encode("ascii"), words, notice["kind"] if notice else None)

    def _settle(self, *, left: bool) -> None:
        guard = self._watch.guard
        for report in guard.outbox.waiting(self._asked.request.call):
            if left or self.channel is None:
                guard.lost(report)
            else:
                guard.deliver(report, self.channel)

    def _reports(self) -> list[Report]:
        """Return the reports of this request; several prompts or choices make several."""
        call = self._asked.request.call
        # The list is made first: the thread that generates appends to the deque.
        return [each for each in list(self._watch.reports) if each.call == call]


def standing_kind(watch: Watch) -> str | None:
    """Return what the header says where no report is known: None, no header, without profiles."""
    notices = watch.guard.policy.notices
    if notices.prompted:
        return "prompted"
    return "ai" if notices.profiles or notices.strictest_of else None


def guarded(make: Callable[[], Made], otherwise: Made) -> Made:
    """Return the result of `make`, or `otherwise` after logging its exception."""
    try:
        return make()
    except Exception:
        log.exception("a notice could not be given: the answer leaves as it came")
        return otherwise
