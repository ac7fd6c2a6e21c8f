"""Decides whether a notice is due and words it: a pure function of response and history.

After a clock was set a notice may be early, never late: see `emoguard.clock`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from emoguard.clock import Moment, elapsed
from emoguard.notices import claims, words
from emoguard.records import Kind, Notice, Reason, Report

if TYPE_CHECKING:
    from emoguard.notices.policy import NoticePolicy
    from emoguard.notices.profiles import Profile

OF_TONE: tuple[Kind, ...] = ("steered", "amplified", "prompted")
"""Kinds of notice about a response's tone; the first that applies is used."""

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class History:
    """The notices of one conversation so far.

    `seen` is its last response. `given` has the time of the last notice by profile, `tone` the tone
    last disclosed. `lost` counts the responses in a row whose notice was lost, `owed` are the
    profiles of those notices.
    """

    seen: Moment | None = None
    given: Mapping[str, Moment] = field(default_factory=dict)
    tone: str | None = None
    lost: int = 0
    owed: tuple[str, ...] = ()


def notice(
    report: Report,
    response_text: str,
    user_text: str | None,
    history: History,
    *,
    policy: NoticePolicy,
    now: Moment,
) -> Notice | None:
    """Return the notice due with this response, or None.

    The texts are examined only where a profile is followed.
    """
    due = _due_by_profile(response_text, user_text, history, policy, now)
    if history.lost:
        due["undelivered"] = history.owed
    shown = bool(due) or tone(report, policy) != history.tone
    if report.steered:
        due["steered"] = ()
    if rose(report, policy):
        due["amplified"] = ()
    if policy.prompted:
        due["prompted"] = ()
    if not due:
        return None
    reminder = (
        "interval" in due
        and _continuing(history, policy, now)
        and any(each.break_reminder for each in policy.followed() if each.name in due["interval"])
    )
    kind: Kind = next((each for each in OF_TONE if each in due), "ai")
    wording = policy.words()
    return Notice(
        kind=kind,
        reasons=tuple(due),
        profiles=tuple(dict.fromkeys(name for names in due.values() for name in names)),
        text=" ".join([wording[kind], wording["break"]] if reminder else [wording[kind]])
        if shown
        else "",
        version=words.version(),
        locale=policy.locale,
        break_reminder=reminder,
    )


def rose(report: Report, policy: NoticePolicy) -> list[str]:
    """Return the amplifying labels that rose over their threshold."""
    scores = report.scores
    return [name for name in policy.amplifying if name in scores and scores[name].crossings]


def tone(report: Report, policy: NoticePolicy) -> str | None:
    """Return a digest of a response's tone, None without one to disclose: same digest, same tone.

    It depends on the plan of a steered response and on the labels that rose in an amplifying one;
    all others whose tone a prompt sets are the same.
    """
    plan = report.receipt.plan if report.receipt is not None and report.steered else None
    labels = rose(report, policy)
    if plan is None and not labels and not policy.prompted:
        return None
    parts = json.dumps([plan, labels, *["prompted"] * policy.prompted], sort_keys=True)
    return blake2b(parts.encode(), digest_size=8).hexdigest()


def untold(history: History, now: Moment) -> History:
    """Return the history after a response without a notice due."""
    return replace(history, seen=now, tone=None)


def given(
    history: History, notice: Notice, new: str | None, policy: NoticePolicy, now: Moment
) -> History:
    """Return the history after a response whose notice reached its user; `new` is its tone.

    Its words serve every followed profile, but one that suggests a break only when it was due.
    """
    served = {
        each.name: now
        for each in policy.followed()
        if notice.text and (each.name in notice.profiles or not each.break_reminder)
    }
    return History(seen=now, given={**history.given, **served}, tone=new)


def lost(history: History, notice: Notice, now: Moment) -> History:
    """Return the history after a response whose notice did not reach its user: it is due again."""
    owed = tuple(dict.fromkeys((*history.owed, *notice.profiles)))
    return History(now, history.given, tone=None, lost=history.lost + 1, owed=owed)


def _due_by_profile(
    response_text: str,
    user_text: str | None,
    history: History,
    policy: NoticePolicy,
    now: Moment,
) -> dict[Reason, Sequence[str]]:
    """Return the profiles under which a notice is due, by reason."""
    followed = policy.followed()
    due: dict[Reason, list[str]] = {}
    for profile in followed:
        reason = _timer(profile, history, policy, now)
        if reason is not None:
            due.setdefault(reason, []).append(profile.name)
    if followed and claims.claims(response_text):
        due["claim"] = [each.name for each in followed if each.claim]
    if followed and user_text is not None and claims.asks(user_text):
        due["question"] = [each.name for each in followed if each.question]
    return dict(due)


def _timer(profile: Profile, history: History, policy: NoticePolicy, now: Moment) -> Reason | None:
    """Return the reason why time alone makes a notice due under a profile, or None."""
    last = history.given.get(profile.name)
    if last is None or history.seen is None:
        return "start"
    if not _continuing(history, policy, now) and _starts_again(profile, last, policy, now):
        return "start"
    unused = profile.unused_days
    if unused is not None and elapsed(history.seen, now) >= unused * DAY:
        return "start"
    every = profile.every_hours
    if every is not None and elapsed(last, now) >= every * HOUR:
        return "interval"
    return None


def _starts_again(profile: Profile, last: Moment, policy: NoticePolicy, now: Moment) -> bool:
    """Return whether a profile wants its notice at the start of another interaction."""
    if profile.start != "day":
        return profile.start == "interaction"
    offset = policy.utc_offset_hours * HOUR
    return elapsed(last, now) >= DAY or (last.wall + offset) // DAY != (now.wall + offset) // DAY


def _continuing(history: History, policy: NoticePolicy, now: Moment) -> bool:
    gap = policy.continuing_gap_minutes * 60
    return history.seen is not None and elapsed(history.seen, now) < gap
