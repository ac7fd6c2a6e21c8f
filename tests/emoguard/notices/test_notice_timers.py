"""Timers of notices, over all profiles, with a fake clock and a restart in the middle."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, Guard, Policy, Request
from emoguard.clock import Clock, Moment, elapsed
from emoguard.notices import profiles
from emoguard.notices.notice import DAY, HOUR, History, notice
from emoguard.notices.policy import NoticePolicy
from emoguard.testing import FakeResiduals, make_probe, make_report, make_session, put_reading

NAMES = tuple(profiles.shipped().by_name)
PROBE = make_probe(FakeResiduals())
NOON = 1_800_000_000.0 - 1_800_000_000.0 % DAY + DAY / 2


@dataclass
class Time:
    """A clock that is set by hand; `process` changes when the process restarts."""

    wall: float = NOON
    uptime: float = 500.0
    process: int = 0

    def __call__(self) -> Moment:
        return Moment(self.wall, self.uptime, str(self.process))

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds

    def restart(self) -> None:
        self.process += 1
        self.uptime = 1.0


def open_guard(policy, now):
    return Guard(PROBE, policy=Policy(notices=policy), now=now)


def respond(guard, finish="stop", **request):
    """Return the report of one response in one conversation."""
    session = make_session(Request(conversation="c", **request), tokens=2)
    return put_reading(guard, session.reading(finish), session.request, session.text)


STOPS = ("stop",) * 100


def run(policy, waits, restart_at=None, finishes=STOPS):
    """Return (seconds since the start, notice) of a response after each wait, over a restart."""
    time, shown = Time(), []
    guard = open_guard(policy, time)
    for n, (wait, finish) in enumerate(zip(waits, finishes, strict=False)):
        time.wait(wait)
        if n == restart_at:
            guard.close()
            time.restart()
            guard = open_guard(policy, time)
        shown.append((time.wall - NOON, respond(guard, finish).notice))
    guard.close()
    return shown


@st.composite
def policies(draw):
    """Any choice of profiles, each for itself, as one, or both."""
    some = st.lists(st.sampled_from(NAMES), max_size=3, unique=True).map(tuple)
    each, merged = draw(some), draw(some)
    each = each if each or merged else NAMES
    return NoticePolicy(profiles=each, strictest_of=merged, known_minors=draw(st.booleans()))


def assert_never_late(policy, shown):
    """Every response that an interval has passed at has the words; so has the first."""
    for profile in policy.followed():
        last = None
        for time, actual in shown:
            every = (profile.every_hours or 1e9) * HOUR
            if last is None or time - last >= every + 0.001:  # floats
                assert actual is not None, f"{profile.name} is late at {time}"
                assert actual.text
            if actual is not None and actual.text and actual.channel:
                last = time


WAITS = st.lists(st.floats(1, 5 * HOUR) | st.floats(1, 900), min_size=2, max_size=40)
RESTARTS = st.none() | st.integers(0, 39)


@given(policy=policies(), waits=WAITS, restart=RESTARTS)
def test_no_interval_is_late_by_more_than_one_response(tmp_path_factory, policy, waits, restart):
    path = tmp_path_factory.mktemp("state") / "notices.json"
    assert_never_late(policy, run(replace(policy, state=str(path)), waits, restart))


@given(policy=policies(), waits=WAITS, restart=RESTARTS, lost=st.lists(st.booleans(), min_size=40))
def test_a_lost_notice_is_due_until_it_is_given(tmp_path_factory, policy, waits, restart, lost):
    path = tmp_path_factory.mktemp("state") / "notices.json"
    finishes = ["cancelled" if each else "stop" for each in lost]
    rows = run(replace(policy, state=str(path)), waits, restart, finishes)
    assert_never_late(policy, rows)
    for (_, before), (_, actual), finish in zip(rows, rows[1:], finishes[1:], strict=False):
        if before is not None and before.channel is None:
            assert actual.text
            assert "undelivered" in actual.reasons
            assert set(before.profiles) <= set(actual.profiles)
            assert (actual.channel is None) == (finish == "cancelled")


@given(policy=policies(), waits=WAITS, saved=st.integers(0, 39), killed=st.integers(0, 39))
def test_a_process_that_is_killed_makes_notices_early_never_late(
    tmp_path_factory, policy, waits, saved, killed
):
    folder = tmp_path_factory.mktemp("state")
    time, shown = Time(), []
    guards = [open_guard(replace(policy, state=str(folder / "first.json")), time)]
    for n, wait in enumerate(waits):
        time.wait(wait)
        if n == killed:  # what was written last is all that is left
            time.restart()
            guards.append(open_guard(replace(policy, state=str(folder / "left.json")), time))
        shown.append((time.wall - NOON, respond(guards[-1]).notice))
        if n == saved and n < killed:
            guards[0].flush()
            shutil.copy(folder / "first.json", folder / "left.json")
    for guard in guards:
        guard.close()
    assert_never_late(policy, shown)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("minors", [False, True])
@pytest.mark.parametrize("restart", [None, *range(0, 41, 7)])
def test_a_response_a_minute_has_each_notice_to_the_minute(tmp_path, name, minors, restart):
    policy = NoticePolicy(profiles=(name,), known_minors=minors, state=str(tmp_path / "state.json"))
    (profile,) = policy.followed()
    waits = [600.0] * 41  # ten minutes: 400 in all
    rows = run(policy, waits, restart)
    minutes = [round((time - rows[0][0]) / 60) for time, actual in rows if actual is not None]
    every = profile.every_hours
    wanted = [0] if every is None else list(range(0, 401, round(every * 60)))
    assert minutes == wanted


def test_the_hours_are_those_of_the_plan():
    hours = {name: p.every_hours for name, p in profiles.shipped().by_name.items()}
    assert hours == {
        "eu_art50": None,
        "us_ny_1702": 3,
        "us_ca_sb243": None,
        "us_wa_2225": 3,
        "us_ut_452": None,
        "cn_2026": 2,
    }
    minors = {name: p.for_minors() for name, p in profiles.shipped().by_name.items()}
    assert (minors["us_wa_2225"].every_hours, minors["us_ca_sb243"].every_hours) == (1, 3)
    assert [name for name, p in minors.items() if p.break_reminder] == ["us_ca_sb243"]


def test_a_break_is_suggested_only_to_minors_in_a_long_interaction():
    policy = NoticePolicy(profiles=("us_ca_sb243",), known_minors=True)
    reminders = [
        (round(time / HOUR, 2), actual.break_reminder, "break" in actual.text)
        for time, actual in run(policy, [600] * 40)
        if actual
    ]
    assert reminders == [(0.17, False, False), (3.17, True, True), (6.17, True, True)]
    after_a_pause = run(policy, [1, 4 * HOUR])[1][1]
    assert (after_a_pause.reasons, after_a_pause.break_reminder) == (("interval",), False)
    adults = run(replace(policy, known_minors=False), [600] * 40)
    assert [actual for _, actual in adults if actual][1:] == []


def test_a_notice_under_one_profile_does_not_delay_the_break_that_another_wants():
    policy = NoticePolicy(profiles=("us_wa_2225", "us_ca_sb243"), known_minors=True)
    results = [actual for _, actual in run(policy, [600] * 20) if actual]
    assert [actual.break_reminder for actual in results] == [False, False, False, True]
    assert results[-1].profiles == ("us_wa_2225", "us_ca_sb243")


def test_one_notice_serves_all_profiles_that_want_the_same_words():
    policy = NoticePolicy(profiles=("us_ny_1702", "cn_2026"))
    results = [(time, actual.profiles) for time, actual in run(policy, [1200] * 20) if actual]
    assert results == [
        (1200, ("us_ny_1702", "cn_2026")),
        (1200 + 2 * HOUR, ("cn_2026",)),
        (1200 + 4 * HOUR, ("cn_2026",)),
        (1200 + 6 * HOUR, ("cn_2026",)),
    ]


def test_the_strictest_of_several_has_the_shortest_interval_and_every_demand():
    policy = NoticePolicy(
        strictest_of=("us_ca_sb243", "us_wa_2225", "us_ut_452"), known_minors=True
    )
    (profile,) = policy.followed()
    assert (profile.every_hours, profile.start, profile.unused_days) == (1, "interaction", 7)
    assert (profile.claim, profile.question, profile.break_reminder) == (True, True, True)
    results = [actual for _, actual in run(policy, [600] * 8) if actual]
    assert [actual.profiles for actual in results] == [("us_ca_sb243+us_wa_2225+us_ut_452",)] * 2
    assert results[1].break_reminder


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True), st.booleans())
def test_the_strictest_asks_for_no_less_than_any(names, minors):
    policy = NoticePolicy(profiles=tuple(names), strictest_of=tuple(names), known_minors=minors)
    *each, merged = policy.followed()
    for profile in each:
        assert profiles.shortest(merged.every_hours, profile.every_hours) == merged.every_hours
        assert profiles.shortest(merged.unused_days, profile.unused_days) == merged.unused_days
        assert profiles.STARTS.index(merged.start) >= profiles.STARTS.index(profile.start)
        for demand in ("claim", "question", "break_reminder"):
            assert getattr(merged, demand) >= getattr(profile, demand)


GAP = 30 * 60


@pytest.mark.parametrize(
    ("name", "wait", "reasons"),
    [
        ("eu_art50", 30 * DAY, None),
        ("us_wa_2225", GAP - 1, None),
        ("us_wa_2225", GAP, ("start",)),
        ("us_ny_1702", GAP, None),  # once a day
        ("us_ny_1702", 12 * HOUR, ("start",)),  # from noon to midnight
        ("us_ny_1702", 12 * HOUR - 1, ("interval",)),
        ("us_ny_1702", DAY, ("start",)),
        ("us_ut_452", 7 * DAY - 1, None),
        ("us_ut_452", 7 * DAY, ("start",)),
        ("cn_2026", GAP, ("start",)),
        ("us_ca_sb243", 7 * DAY, None),
    ],
)
@pytest.mark.parametrize("restart", [None, 1])
def test_a_pause_starts_a_new_interaction_for_profiles_that_count_them(
    tmp_path, name, wait, reasons, restart
):
    policy = NoticePolicy(profiles=(name,), state=str(tmp_path / "state.json"))
    rows = run(policy, [0, wait], restart)[1][1]
    assert (rows and rows.reasons) == reasons


def test_the_day_is_that_of_the_users():
    policy = NoticePolicy(profiles=("us_ny_1702",), utc_offset_hours=11)
    assert run(policy, [0, HOUR])[1][1].reasons == ("start",)  # 23:00 to 24:00 with them
    assert run(replace(policy, utc_offset_hours=0), [0, HOUR])[1][1] is None


@given(st.lists(st.tuples(st.floats(-2 * DAY, 2 * DAY), st.floats(0, DAY)), max_size=12))
def test_a_wall_clock_that_is_set_makes_notices_early_never_late(steps):
    policy = NoticePolicy(profiles=("us_wa_2225",))
    time, passed, shown = Time(), 0.0, []
    with open_guard(policy, time) as guard:
        for jump, wait in [(0.0, 0.0), *steps]:
            time.wait(wait)
            time.wall += jump
            passed += wait
            shown.append((passed, respond(guard).notice))
    assert_never_late(policy, shown)


def test_elapsed_time_is_the_larger_of_two_clocks():
    since = Moment(100.0, 10.0, "a")
    assert elapsed(since, Moment(90.0, 15.0, "a")) == 5
    assert elapsed(since, Moment(160.0, 15.0, "a")) == 60
    assert elapsed(since, Moment(160.0, 1.0, "b")) == 60
    assert elapsed(since, Moment(90.0, 11.0, "b")) == float("inf")
    assert Clock()().clock != Clock()().clock


def test_the_same_arguments_give_the_same_notice():
    policy = NoticePolicy(profiles=NAMES)
    results = [
        notice(make_report(), "I am sad.", "Are you human?", History(), policy=policy, now=Time()())
        for _ in range(2)
    ]
    assert results[0] == results[1]
    assert results[0].reasons == ("start", "claim", "question")
    assert results[0].profiles == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_operators_may_shorten_and_never_lengthen(name):
    hours = profiles.shipped().get(name).every_hours
    shorter = NoticePolicy(profiles=(name,), every_hours={name: 0.5})
    times = [time for time, actual in run(shorter, [600] * 10) if actual]
    assert [b - a for a, b in itertools.pairwise(times)] == [1800] * 3
    if hours is not None:
        with pytest.raises(EmoGuardError, match="only be shortened") as caught:
            NoticePolicy(profiles=(name,), every_hours={name: hours + 0.1})
        assert name in str(caught.value)
