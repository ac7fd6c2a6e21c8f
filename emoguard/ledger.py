"""What each conversation was told, and the notices that are on their way to their users."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from emoguard import claims
from emoguard import notice as notices
from emoguard.checkpoint import Checkpoint
from emoguard.delivery import Delivery
from emoguard.notice import Clock, History, Moment
from emoguard.policy import MOST_CONVERSATIONS, NoticePolicy
from emoguard.records import Channel, Notice, Report, Request

log = logging.getLogger("emoguard")

FORMAT = 1
ENTRY_BYTES = 384
"""More than one conversation takes in the file: 341 with all profiles given and owed."""
SAVE_SECONDS = 1.0
"""The file is written at most this often, in a thread of its own."""
MOST_PENDING = 4096
"""Notices on their way; of more, the oldest are given up as lost."""
MOST_LEFT = 256
"""Calls that nobody waits for and that may still be generated for; older ones are forgotten."""
SLOW_SECONDS = 60.0
"""A notice that is on its way for longer is overdue."""


class Ledger:
    """Decides on notices and follows them until they are given or lost. Thread-safe.

    Conversations are kept under a hash of their name, the least recent forgotten first. What
    breaks here is counted, logged once, and disturbs no response. `tell` is called with each report
    whose notice is lost here, for the sinks.

    Raises:
        EmoGuardError: the state file cannot be used.

    """

    def __init__(
        self,
        policy: Callable[[], NoticePolicy],
        now: Callable[[], Moment] | None = None,
        tell: Callable[[Report], None] = lambda _: None,
    ) -> None:
        self._policy = policy
        self._tell = tell
        self._now = now or Clock()
        self._lock = threading.Lock()
        self._pending: OrderedDict[int, tuple[Report, Moment]] = OrderedDict()
        self._left: deque[str] = deque(maxlen=MOST_LEFT)
        self._keep = policy().keep_conversations
        self._faults: deque[str] = deque(maxlen=256)
        self._logged = False
        # As large as any policy allows: the file may be from a time when more were kept.
        largest = ENTRY_BYTES * (MOST_CONVERSATIONS + 1)
        self._checkpoint = Checkpoint(policy().state, {"notices": FORMAT}, largest=largest)
        self._histories = self._restored()
        if policy().followed():
            claims.patterns()  # compiled here, not within the first response
        self._changed = False
        self._hurry = threading.Event()
        savers = [("notices", self._save)] if policy().state is not None else []
        self._saving: Delivery[bool] = Delivery(savers, deque(maxlen=1))

    def decide(self, report: Report, request: Request, decode: Callable[[], str]) -> Report:
        """Return the report with the notice that is due with it; `decode` makes the text.

        Never raises.
        """
        try:
            policy = self._policy()
            text = self._text(decode) if policy.followed() else ""
            return self._decided(report, request, text, policy)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(error)
            return report

    def carry(self, report: Report) -> None:
        """Wait for what becomes of a report's notice; it is lost at once if its client is gone."""
        now, lost = self._now(), report
        with self._lock:  # as `leave`, so that one of the two finds the other
            if report.call not in self._left:
                self._pending[id(report)] = report, now
                if len(self._pending) <= MOST_PENDING:
                    return
                _, (lost, _) = self._pending.popitem(last=False)
        self._lose(lost)

    def leave(self, call: str) -> None:
        """Note that the client of a call is gone: what was and is still made for it is lost."""
        with self._lock:
            self._left.append(call)
            gone = [key for key, (report, _) in self._pending.items() if report.call == call]
            lost = [self._pending.pop(key)[0] for key in gone]
        for report in lost:
            self._lose(report)

    def has_left(self, call: str) -> bool:
        """Return whether the client of a call is known to be gone."""
        with self._lock:
            return call in self._left

    def take(self, report: Report) -> bool:
        """Return whether a report was waited for; it no longer is."""
        with self._lock:
            return self._pending.pop(id(report), None) is not None

    def waiting(self, call: str | None = None) -> list[Report]:
        """Return the reports whose notices are on their way, those of one call if it is named."""
        with self._lock:
            found = [report for report, _ in self._pending.values()]
        return [report for report in found if call in (None, report.call)]

    def settled(self, report: Report, channel: Channel | None) -> Report:
        """Note that a report's notice was given by `channel`, or lost; return what sinks are told.

        Never raises.
        """
        told = report.notice
        assert told is not None
        try:
            self._settle(report, told, is_given=channel is not None)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(error)
        return dataclasses.replace(report, notice=dataclasses.replace(told, channel=channel))

    def overdue(self) -> int:
        """Return how many notices are late by more than one response, or stuck on their way.

        A conversation counts while it goes on: when its user has left there is nobody to tell.
        """
        now, gap = self._now(), self._policy().continuing_gap_minutes * 60
        with self._lock:
            histories = list(self._histories.values())
            began = [moment for _, moment in self._pending.values()]
        late = [
            h for h in histories if h.lost > 1 and h.seen and notices.elapsed(h.seen, now) < gap
        ]
        stuck = [moment for moment in began if notices.elapsed(moment, now) > SLOW_SECONDS]
        return len(late) + len(stuck)

    def faults(self) -> tuple[str, ...]:
        """Return "notices" once for each failure since the last call."""
        with self._lock:
            taken = tuple(self._faults)
            self._faults.clear()
        return taken + self._saving.faults()

    def flush(self, timeout: float) -> bool:
        """Wait until the state file holds everything; False when time ran out."""
        self._hurry.set()
        try:
            return self._saving.flush(timeout)
        finally:
            self._hurry.clear()

    def close(self, timeout: float) -> None:
        """Bring the state to its file and end the thread. May be used again afterwards."""
        self._hurry.set()
        self._saving.close(timeout)
        self._hurry.clear()

    def _lose(self, report: Report) -> None:
        self._tell(self.settled(report, None))

    def _decided(self, report: Report, request: Request, text: str, policy: NoticePolicy) -> Report:
        now, key = self._now(), _key(report.conversation)
        with self._lock:
            history = self._histories.get(key, History()) if key is not None else History()
        found = notices.notice(report, text, request.user_text, history, policy=policy, now=now)
        if found is None:
            self._change(key, lambda history: notices.untold(history, now))
        # Else nothing is written before it is settled: until then the notice stays due.
        return dataclasses.replace(report, notice=found)

    def _settle(self, report: Report, told: Notice, *, is_given: bool) -> None:
        now, policy = self._now(), self._policy()
        tone = notices.tone(report, policy)

        def change(history: History) -> History:
            if is_given:
                return notices.given(history, told, tone, policy, now)
            return notices.lost(history, told, now)

        self._change(_key(report.conversation), change)

    def _change(self, key: str | None, change: Callable[[History], History]) -> None:
        """Put another history in the place of a conversation's; have it written soon."""
        if key is None:
            return
        with self._lock:
            self._histories[key] = change(self._histories.pop(key, History()))
            if len(self._histories) > self._keep:
                self._histories.popitem(last=False)
            told, self._changed = self._changed, True
        if not told:
            self._saving.send(True)

    def _save(self, _changed: bool) -> tuple[()]:
        self._hurry.wait(SAVE_SECONDS)
        with self._lock:
            self._changed = False
            histories = dict(self._histories)
        self._checkpoint.save({key: _plain(history) for key, history in histories.items()})
        return ()

    def _restored(self) -> OrderedDict[str, History]:
        state = self._checkpoint.load() or {}
        try:
            histories = OrderedDict((key, _history(each)) for key, each in state.items())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._checkpoint.broken(error) from error
        while len(histories) > self._keep:
            histories.popitem(last=False)
        return histories

    def _text(self, decode: Callable[[], str]) -> str:
        try:
            return decode()
        except Exception as error:  # noqa: BLE001  (timers need no text)
            self._fail(error)
            return ""

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._faults.append("notices")
            first, self._logged = not self._logged, True
        if first:
            log.error("notices failed, the response goes on (logged once): %r", error)


def _key(conversation: str | None) -> str | None:
    """Return what a conversation is kept under: its name may be long, and is nobody's business."""
    if conversation is None:
        return None
    return blake2b(conversation.encode("utf-8", "replace"), digest_size=12).hexdigest()


def _plain(history: History) -> list[Any]:
    """Return a history as JSON data: of moments only the wall clock outlives the process."""
    seen = history.seen.wall if history.seen else None
    given = {name: moment.wall for name, moment in history.given.items()}
    return [seen, given, history.tone, history.lost, history.owed]


def _history(data: Any) -> History:
    seen, given, tone, lost, owed = data
    return History(
        None if seen is None else Moment(float(seen)),
        {str(name): Moment(float(wall)) for name, wall in given.items()},
        None if tone is None else str(tone),
        int(lost),
        tuple(map(str, owed)),
    )
