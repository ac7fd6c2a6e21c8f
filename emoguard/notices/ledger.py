"""Decides on the notices of each conversation, and remembers those that its user got."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from emoguard.clock import Clock, Moment, elapsed
from emoguard.errors import EmoGuardError
from emoguard.forked import AFTER_FORK
from emoguard.notices import claims
from emoguard.notices import notice as notices
from emoguard.notices.notice import History
from emoguard.notices.policy import MOST_CONVERSATIONS, NoticePolicy
from emoguard.records import Channel, Notice, Report, Request
from emoguard.runtime.interrupts import is_interrupt
from emoguard.sinks.checkpoint import Checkpoint
from emoguard.sinks.delivery import Delivery

log = logging.getLogger("emoguard")

FORMAT = 1
ENTRY_BYTES = 384
"""Room of one conversation in the file: at most 341, with all profiles given and owed."""
LARGEST = ENTRY_BYTES * (MOST_CONVERSATIONS + 1)
"""The most that any policy allows: an earlier policy may have kept more."""
SAVE_SECONDS = 1.0
"""The file is written at most this often, in a thread of its own."""


class Ledger:
    """Decides on notices and remembers the given and the lost ones. Thread-safe.

    Conversations are kept under a hash of their name, the least recent forgotten first. Failures
    here are counted, logged once, and disturb no response.
    """

    def __init__(
        self,
        policy: Callable[[], NoticePolicy],
        now: Callable[[], Moment] | None = None,
    ) -> None:
        self._policy = policy
        self.now = now or Clock()
        self._lock = threading.Lock()
        self._keep = policy().keep_conversations
        self._faults: deque[str] = deque(maxlen=256)
        self._logged = False
        self._checkpoint = Checkpoint(policy().state, {"notices": FORMAT}, LARGEST)
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._opened = False
        if policy().followed():
            claims.patterns()  # compiled here, not within the first response
        self._changed = False
        self._hurry = threading.Event()
        savers = [("notices", self._save)] if policy().state is not None else []
        self._saving: Delivery[bool] = Delivery(savers, deque(maxlen=1))

    def open(self) -> None:
        """Lock the state file and take over its content. Idempotent.

        Raises:
            EmoGuardError: another process holds it.

        """
        with self._lock:
            if not self._opened:
                self._opened = True  # tried once: a response does not wait for it again
                self._checkpoint.open(self._restore)

    def decide(self, report: Report, request: Request, decode: Callable[[], str]) -> Report:
        """Return the report with the notice that is due with it; `decode` makes the text.

        A response broken off before its first token was shown to nobody: no notice is due with it,
        and none becomes overdue by it. Never raises, interrupts excepted.
        """
        if report.finish in ("cancelled", "error") and not report.completion_tokens:
            return report
        try:
            policy = self._policy()
            text = self._text(decode) if policy.followed() else ""
            return self._decided(report, request, text, policy)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(error)
            return report

    def settle(self, report: Report, channel: Channel | None) -> Report:
        """Record that a report's notice was given by `channel`, or lost; return the report with it.

        Never raises, interrupts excepted.
        """
        notice = report.notice
        assert notice is not None
        try:
            self._settle(report, notice, is_given=channel is not None)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(error)
        return dataclasses.replace(report, notice=dataclasses.replace(notice, channel=channel))

    def late(self, now: Moment) -> int:
        """Return how many conversations have a notice that is late by more than one response.

        A conversation counts while it lasts: once its user has left, there is nobody to notify.
        """
        gap = self._policy().continuing_gap_minutes * 60
        with self._lock:
            histories = list(self._histories.values())
        return sum(
            h.lost > 1 and h.seen is not None and elapsed(h.seen, now) < gap for h in histories
        )

    def faults(self) -> tuple[str, ...]:
        """Return "notices" once for each failure since the last call."""
        with self._lock:
            taken = tuple(self._faults)
            self._faults.clear()
        kept = ("notices",) * self._checkpoint.faults()
        return taken + kept + self._saving.faults()

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
        self._checkpoint.release()

    def after_fork(self) -> None:
        """Continue in a forked child with the present state; the file stays the parent's."""
        self._lock = threading.Lock()
        self._changed = False
        self._hurry = threading.Event()
        self._saving.after_fork(AFTER_FORK)

    def _decided(self, report: Report, request: Request, text: str, policy: NoticePolicy) -> Report:
        self._try_open()
        now, key = self.now(), _key(report.conversation)
        with self._lock:
            history = self._histories.get(key, History()) if key is not None else History()
        notice = notices.notice(report, text, request.user_text, history, policy=policy, now=now)
        if notice is None:
            self._change(key, lambda history: notices.untold(history, now))
        # Otherwise nothing is recorded until it is settled: until then the notice stays due.
        return dataclasses.replace(report, notice=notice)

    def _settle(self, report: Report, notice: Notice, *, is_given: bool) -> None:
        now, policy = self.now(), self._policy()
        tone = notices.tone(report, policy)

        def change(history: History) -> History:
            if is_given:
                return notices.given(history, notice, tone, policy, now)
            return notices.lost(history, notice, now)

        self._change(_key(report.conversation), change)

    def _change(self, key: str | None, change: Callable[[History], History]) -> None:
        """Replace a conversation's history and have it written soon."""
        if key is None:
            return
        with self._lock:
            self._histories[key] = change(self._histories.pop(key, History()))
            if len(self._histories) > self._keep:
                self._histories.popitem(last=False)
            is_queued, self._changed = self._changed, True
        if not is_queued:
            self._saving.send(True)

    def _save(self, _changed: bool) -> tuple[()]:
        self._hurry.wait(SAVE_SECONDS)
        with self._lock:
            self._changed = False
            histories = dict(self._histories)
        self._checkpoint.save({key: _plain(history) for key, history in histories.items()})
        return ()

    def _try_open(self) -> None:
        """Open the state file if that was not done: a guard may be used without `attach`."""
        if not self._opened:
            try:
                self.open()
            except EmoGuardError as error:
                self._fail(error)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over the histories that an earlier process kept.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: they are none.

        """
        histories = OrderedDict((key, _history(each)) for key, each in state.items())
        while len(histories) > self._keep:
            histories.popitem(last=False)
        self._histories = histories

    def _text(self, decode: Callable[[], str]) -> str:
        try:
            return decode()
        except Exception as error:  # noqa: BLE001  (timers need no text)
            self._fail(error)
            return ""

    def _fail(self, error: Exception) -> None:
        """Count a failure and log it once; called from its except block.

        Raises:
            Exception: `error`, if it came from outside.

        """
        if is_interrupt(error):
            raise error
        with self._lock:
            self._faults.append("notices")
            first, self._logged = not self._logged, True
        if first:
            log.error("notices failed, the response goes on (logged once): %r", error)


def check_state(path: str | None) -> None:
    """Raise if histories could not be kept in this file; leaves nothing behind.

    Raises:
        EmoGuardError: with the reason.

    """
    Checkpoint(path, None, LARGEST).check()


def _key(conversation: str | None) -> str | None:
    """Return the hash under which a conversation is kept: its name may be long and is private."""
    if conversation is None:
        return None
    return blake2b(conversation.encode("utf-8", "replace"), digest_size=12).hexdigest()


def _plain(history: History) -> list[Any]:
    """Return a history as JSON data, with wall-clock times, which outlive the process."""
    seen = history.seen.wall if history.seen else None
    times = {name: moment.wall for name, moment in history.given.items()}
    return [seen, times, history.tone, history.lost, history.owed]


def _history(data: Any) -> History:
    seen, times, tone, lost, owed = data
    return History(
        None if seen is None else Moment(float(seen)),
        {str(name): Moment(float(wall)) for name, wall in times.items()},
        None if tone is None else str(tone),
        int(lost),
        tuple(map(str, owed)),
    )
