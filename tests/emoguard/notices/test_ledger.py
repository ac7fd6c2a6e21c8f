"""What the guard does with notices: who is told, what is remembered, what may break."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import replace
from functools import partial

import pytest

from emoguard import EmoGuardError, Guard, Policy, Request, jsontext, render
from emoguard.clock import Moment
from emoguard.notices import ledger as ledgers
from emoguard.notices import outbox, profiles
from emoguard.notices.ledger import Ledger
from emoguard.notices.notice import History
from emoguard.notices.policy import MOST_CONVERSATIONS, NoticePolicy
from emoguard.records import LabelScore, Report
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    ListSink,
    make_calibration,
    make_probe,
    make_reading,
    make_report,
    make_session,
    put_reading,
)
from tests.emoguard.notices.test_notice_timers import Time

DOOR = FakeResiduals()
PROBE = make_probe(DOOR)
EU = NoticePolicy(profiles=("eu_art50",))


def make_guard(policy=EU, **options):
    return Guard(PROBE, [make_calibration(PROBE, FAKE_IDENTITY)], Policy(notices=policy), **options)


def respond(guard, finish="stop", text="", tokens=2, **request):
    request = {"conversation": "c"} | request
    session = make_session(Request(**request), text, tokens)
    return put_reading(guard, session.reading(finish), session.request, session.text)


def test_without_a_profile_and_without_steering_nothing_is_ever_due():
    with make_guard(NoticePolicy()) as guard:
        report = respond(guard, text="I am human and so sad.", user_text="Are you human?")
    assert report.notice is None


def test_text_is_decoded_only_where_a_profile_is_followed():
    decoded = []
    for policy in (NoticePolicy(), EU):
        with make_guard(policy) as guard:
            session = make_session(Request())
            session.decode = lambda ids: decoded.append(len(ids)) or ""
            put_reading(guard, session.reading("stop"), session.request, session.text)
    assert decoded == [40]


def test_without_a_conversation_each_response_is_the_first():
    with make_guard() as guard:
        notices = [respond(guard, conversation=None).notice for _ in range(3)]
    assert [notice.reasons for notice in notices] == [("start",)] * 3


def test_conversations_are_told_apart():
    with make_guard() as guard:
        notices = [respond(guard, conversation=name).notice is not None for name in "abab"]
    assert notices == [True, True, False, False]


def test_a_claim_and_a_question_are_answered_each_time():
    with make_guard(NoticePolicy(profiles=("us_wa_2225", "us_ut_452"))) as guard:
        respond(guard)
        claim = respond(guard, text="I'm a real person.").notice
        question = respond(guard, user_text="Am I talking to a human?").notice
        assert respond(guard, text="The sky is blue.", user_text="Why?").notice is None
    assert (claim.reasons, claim.profiles) == (("claim",), ("us_wa_2225",))
    assert (question.reasons, question.profiles) == (("question",), ("us_ut_452",))
    assert claim.text
    assert question.text


def test_in_this_process_the_report_is_the_delivery():
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        report = respond(guard)
        guard.flush()
    assert report.notice.channel == "field"
    assert sink.reports == [report]


@pytest.mark.parametrize("finish", ["cancelled", "error"])
def test_a_notice_of_a_broken_off_response_is_lost_and_due_again(finish):
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        reports = [respond(guard, finish), respond(guard), respond(guard)]
        guard.flush()
    assert [r.notice and (r.notice.reasons, r.notice.channel) for r in reports] == [
        (("start",), None),
        (("start", "undelivered"), "field"),
        None,
    ]
    assert sink.reports == reports


def test_a_response_broken_off_before_its_first_token_owes_no_notice():
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        for finish in ("cancelled", "error", "cancelled"):
            assert respond(guard, finish, tokens=0).notice is None
        assert guard.outbox.overdue() == 0
        assert respond(guard).notice.reasons == ("start",)
        assert respond(guard, "stop", tokens=0).notice is None
        guard.flush()
    assert len(sink.reports) == 5


def test_sinks_get_a_report_once_the_server_declares_its_notice_delivered_or_lost():
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        lost, notices = (respond(guard, carrier="server") for _ in range(2))
        assert "undelivered" not in notices.notice.reasons, "it is not known yet"
        guard.flush()
        assert not sink.reports
        guard.lost(lost)
        guard.deliver(notices, "suffix")
        guard.flush()
        assert [report.notice.channel for report in sink.reports] == [None, "suffix"]
        assert respond(guard, carrier="server").notice is None


def test_an_abandoned_call_loses_the_notices_of_all_its_responses():
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        request = Request(carrier="server")
        guard.outbox.abandon(request.id)
        for n in range(3):
            put_reading(guard, make_reading(), replace(request, id=f"{request.id}-{n}"))
        assert not guard.outbox.waiting()
        guard.flush()
    assert [report.notice.channel for report in sink.reports] == [None] * 3


@pytest.mark.parametrize("when", ["before it waits", "while it waits"])
def test_a_client_that_leaves_while_its_report_is_published_loses_the_notice(monkeypatch, when):
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        abandon = guard.outbox.abandon
        if when == "before it waits":
            # Returns None, so "not abandoned", and the client leaves.
            monkeypatch.setattr(guard.outbox, "_is_abandoned", abandon)
        report = respond(guard, carrier="server")
        abandon(report.call)
        assert not guard.outbox.waiting()
        guard.deliver(report, "field")
        guard.flush()
        assert [report.notice.channel for report in sink.reports] == [None]
        assert "undelivered" in respond(guard).notice.reasons


def test_a_notice_stays_due_until_it_is_settled():
    time = Time()
    with make_guard(NoticePolicy(profiles=("us_wa_2225",)), now=time) as guard:
        respond(guard)
        time.wait(30 * 60)  # another interaction begins
        waiting = [respond(guard, carrier="server") for _ in range(2)]
        assert [report.notice.reasons for report in waiting] == [("start",)] * 2
        guard.deliver(waiting[0], "field")
        assert respond(guard).notice is None


def test_a_notice_is_settled_once():
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        report = respond(guard, carrier="server")
        guard.deliver(report, "field")
        guard.deliver(report, "header")
        guard.lost(report)
        guard.lost(respond(guard, carrier="server"))  # without a notice
        guard.lost(make_report())
        guard.flush()
    assert [r.notice and r.notice.channel for r in sink.reports] == ["field", None]


def test_a_server_that_says_nothing_leaves_notices_lost_not_kept(monkeypatch):
    monkeypatch.setattr(outbox, "MOST_PENDING", 10)
    sink = ListSink()
    with make_guard(sinks=[sink]) as guard:
        reports = [respond(guard, carrier="server", conversation=str(n)) for n in range(15)]
        guard.flush()
        assert [report.id for report in sink.reports] == [report.id for report in reports[:5]]
        guard.deliver(reports[0], "field")
        guard.deliver(reports[14], "field")
        guard.flush()
        assert sink.reports[-1].notice.channel == "field"
    assert sorted(r.id for r in sink.reports) == sorted(r.id for r in reports)
    assert [r.notice.channel for r in sink.reports].count(None) == 14


def test_a_report_with_a_notice_always_goes_to_the_sinks():
    sink = ListSink()
    policy = Policy(notices=EU, sample_ratio=0)
    with Guard(PROBE, policy=policy, sinks=[sink]) as guard:
        shown, plain = respond(guard), respond(guard)
        denied = respond(guard, denied=("plan",))
        guard.flush()
    assert plain.notice is None
    assert sink.reports == [shown, denied]
    assert denied.denied == ("plan",)


def amplified(guard, conversation="c", **crossings):
    """Return what the guard makes of a report in which labels rose."""
    scores = {label: LabelScore(0.0, 1.0, 0.5, times) for label, times in crossings.items()}
    fields = vars(make_report()) | {"conversation": conversation, "scores": scores}
    return guard.outbox.put(Report(**fields), Request(), str)


def test_an_amplifying_label_marks_each_response_and_words_repeat_on_change():
    policy = NoticePolicy(amplifying=("sad", "happy"))
    with make_guard(policy) as guard:
        steps = [{"sad": 1}, {"sad": 2}, {"happy": 1}, {"happy": 0, "other": 3}, {"happy": 1}]
        results = [amplified(guard, **step).notice for step in steps]
    assert [notice and (notice.kind, bool(notice.text)) for notice in results] == [
        ("amplified", True),
        ("amplified", False),
        ("amplified", True),
        None,
        ("amplified", True),
    ]


def test_where_a_prompt_sets_the_tone_every_response_says_so_and_the_words_come_once():
    with make_guard(NoticePolicy(prompted=True, amplifying=("sad",))) as guard:
        notices = [respond(guard), respond(guard), amplified(guard, sad=1), respond(guard)]
        other = respond(guard, conversation="other")
    assert [(r.notice.kind, bool(r.notice.text)) for r in notices] == [
        ("prompted", True),
        ("prompted", False),
        ("amplified", True),
        ("prompted", True),
    ]
    assert notices[0].notice.reasons == ("prompted",)
    assert notices[2].notice.reasons == ("amplified", "prompted")
    assert "operator has set an emotional tone" in other.notice.text


def test_a_language_without_shipped_words_needs_those_that_may_be_said():
    text = {"ai": "KI.", "steered": "Gelenkt.", "amplified": "Stark.", "break": "Pause."}
    NoticePolicy(locale="de", text=text)
    with pytest.raises(EmoGuardError, match=r"notices\.text for prompted"):
        NoticePolicy(locale="de", text=text, prompted=True)
    NoticePolicy(locale="de", text=text | {"prompted": "Eingestellt."}, prompted=True)


class TooLateError(Exception):
    """Raised from a signal's handler."""


@pytest.mark.parametrize("where", ["policy", "text", "settle"])
def test_an_interrupt_passes_the_ledger(where, monkeypatch):
    def stop(*_):
        raise TooLateError("too late")

    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with make_guard() as guard:
            report = respond(guard, carrier="server")
            ledger = guard.outbox._ledger
            if where == "settle":
                monkeypatch.setattr(ledger, "_settle", interrupted)
                act = partial(guard.lost, report)
            else:
                decode = interrupted if where == "text" else str
                if where == "policy":
                    monkeypatch.setattr(ledger, "_policy", interrupted)
                act = partial(ledger.decide, report, Request(), decode)
            with pytest.raises(TooLateError):
                act()
            assert ledger.faults() == ()
            monkeypatch.undo()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_words_of_a_lost_marking_come_with_the_next():
    with make_guard(NoticePolicy(amplifying=("sad",))) as guard:
        first = amplified(guard, sad=1)
        lost = respond(guard, "cancelled")
        assert lost.notice is None
        again = amplified(guard, sad=1)
    assert first.notice.text
    assert again.notice.text


def test_render_appends_the_words_when_there_are_any():
    with make_guard() as guard:
        first, second = respond(guard), respond(guard)
    assert render("Hello.", first) == f"Hello.\n\n{first.notice.text}"
    assert render("Hello.", second) == "Hello."


def test_the_wire_carries_no_more_than_a_client_may_see():
    with make_guard() as guard:
        report = respond(guard)
    assert report.wire() == {
        "version": 1,
        "id": report.id,
        "status": "scored",
        "steered": False,
        "notice": {
            "kind": "ai",
            "reasons": ["start"],
            "profiles": ["eu_art50"],
            "text": "This is an AI system, not a person. You are not communicating with a human.",
            "version": 1,
            "locale": "en",
            "break_reminder": False,
        },
    }
    assert report.wire("summary").keys() - report.wire().keys() == {"scores", "short"}
    assert report.wire("tokens").keys() - report.wire("summary").keys() == {"tokens"}


def test_own_words_take_the_place_of_the_shipped_ones():
    policy = NoticePolicy(
        profiles=("us_ca_sb243",),
        known_minors=True,
        locale="de",
        text={
            "ai": "Hier antwortet eine KI.",
            "steered": "s",
            "amplified": "a",
            "break": "Zeit für eine Pause.",
        },
    )
    time = Time()
    with make_guard(policy, now=time) as guard:
        first = respond(guard).notice
        for _ in range(9):
            time.wait(20 * 60)
            last = respond(guard).notice
    assert (first.text, first.locale) == ("Hier antwortet eine KI.", "de")
    assert last.text == "Hier antwortet eine KI. Zeit für eine Pause."


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"profiles": ("eu_art5",)}, "notices: eu_art5 is no profile; did you mean eu_art50"),
        ({"strictest_of": ("x",)}, "notices: x is no profile; known profiles: eu_art50, us_ny"),
        (
            {"every_hours": {"cn_2026": 1}},
            "notices.every_hours.cn_2026: that profile is neither in",
        ),
        (
            {"profiles": ("cn_2026",), "every_hours": {"cn_2026": 2.5}},
            "every_hours.cn_2026: intervals may only be shortened: wanted at most 2 hours, got 2.5",
        ),
        (
            {"profiles": ("cn_2026",), "every_hours": {"cn_2026": 0}},
            "every_hours.cn_2026: wanted a number above 0, got 0",
        ),
        (
            {"profiles": ("us_wa_2225",), "known_minors": True, "every_hours": {"us_wa_2225": 2}},
            "every_hours.us_wa_2225: .* wanted at most 1 hours, got 2",
        ),
        (
            {"continuing_gap_minutes": 31},
            "continuing_gap_minutes: wanted a number in .0, 30., got 31",
        ),
        ({"locale": "fr"}, "no words in fr come with EmoGuard, only in en: .*text for ai, steered"),
        ({"text": {"human": "x"}}, "text.human: unknown; kinds of words: ai, steered"),
        ({"text": {"ai": " "}}, "text.ai: wanted one line of 1 to 500 printable"),
        ({"text": {"ai": "a\nb"}}, "text.ai: wanted one line"),
        ({"text": {"ai": "x" * 501}}, "text.ai: wanted one line .*, got 501"),
        ({"keep_conversations": 0}, "keep_conversations: wanted"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(fields, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        NoticePolicy(**fields)


def test_only_so_many_conversations_are_kept_and_a_forgotten_one_is_new(tmp_path):
    policy = NoticePolicy(
        profiles=("eu_art50",), keep_conversations=3, state=str(tmp_path / "state.json")
    )
    with make_guard(policy) as guard:
        notices = [respond(guard, conversation=name).notice is not None for name in "abcadbc"]
    assert notices == [True, True, True, False, True, True, True]
    assert len(json.loads((tmp_path / "state.json").read_text())["state"]) == 3


def test_a_policy_that_keeps_fewer_conversations_takes_over_the_newest(tmp_path):
    path = tmp_path / "state.json"
    more = NoticePolicy(profiles=("eu_art50",), keep_conversations=300, state=str(path))
    with make_guard(more) as guard:
        for n in range(300):
            respond(guard, conversation=str(n))
    fewer = replace(more, keep_conversations=2)
    assert path.stat().st_size > ledgers.ENTRY_BYTES * 3
    with make_guard(fewer) as guard:
        notices = [respond(guard, conversation=name).notice is not None for name in ("298", "297")]
    assert notices == [False, True]
    assert len(json.loads(path.read_text())["state"]) == 2


def test_the_state_names_no_conversation_and_holds_no_text(tmp_path):
    path = tmp_path / "state.json"
    policy = NoticePolicy(profiles=("us_wa_2225",), state=str(path))
    with make_guard(policy) as guard:
        respond(guard, conversation="alice@example.org", text="I am sad.", user_text="secret")
    saved = path.read_text()
    assert "us_wa_2225" in saved
    for word in ("alice", "example", "sad", "secret"):
        assert word not in saved


def test_the_largest_file_that_a_policy_allows_can_be_parsed():
    names = tuple(profiles.shipped().by_name)
    moment = Moment(1764547200.123456)
    history = History(moment, dict.fromkeys(names, moment), "amplified", 99, names)
    entry = json.dumps({"f" * 24: ledgers._plain(history)})
    assert len(entry) <= ledgers.ENTRY_BYTES
    values = sum(map(entry.count, "[{,"))
    assert values * MOST_CONVERSATIONS <= jsontext.MOST_VALUES


def test_the_largest_state_can_be_read_again(tmp_path):
    path = tmp_path / "state.json"
    names = ("eu_art50", "us_ny_1702", "us_ca_sb243", "us_wa_2225", "us_ut_452", "cn_2026")
    policy = NoticePolicy(profiles=names, strictest_of=names, state=str(path))
    with make_guard(policy) as guard:
        for n in range(policy.keep_conversations):
            respond(guard, conversation=str(n))
            if not n % 10:
                respond(guard, "cancelled", conversation=str(n), user_text="are you human?")
    assert path.stat().st_size > 2**20
    with make_guard(policy) as guard:
        assert respond(guard, conversation="1").notice is None
        assert "undelivered" in respond(guard, conversation="0").notice.reasons


@pytest.mark.parametrize(
    "saved",
    [
        "",
        "{",
        '{"bound": {"notices": 1}, "state": 3}',
        '{"bound": {"notices": 1}, "state": {"a": 3}}',
        '{"bound": {"notices": 1}, "state": {"a": [1, {"p": "x"}, null, 0, []]}}',
        '{"bound": {"notices": 1}, "state": {"a": [1, 2, null, 0, []]}}',
    ],
)
def test_a_state_that_cannot_be_used_is_set_aside_counted_and_said(tmp_path, saved, caplog):
    path = tmp_path / "state.json"
    path.write_text(saved)
    with make_guard(NoticePolicy(profiles=("eu_art50",), state=str(path))) as guard:
        assert respond(guard).faults == ("notices",)
    assert "it is now state.json.aside-1" in caplog.text
    assert (tmp_path / "state.json.aside-1").read_text() == saved
    with make_guard(NoticePolicy(profiles=("eu_art50",), state=str(path))) as guard:
        assert respond(guard).notice is None, "it was kept"


def test_a_state_that_cannot_be_written_is_counted_and_disturbs_nothing(tmp_path, caplog):
    path = tmp_path / "gone" / "state.json"
    with make_guard(NoticePolicy(profiles=("eu_art50",), state=str(path))) as guard:
        assert respond(guard).notice.channel == "field"
        guard.flush()
        assert respond(guard).faults == ("notices",)
        guard.flush()
    assert sum("(logged once)" in record.message for record in caplog.records) == 1


def test_a_state_that_another_guard_keeps_is_refused_when_it_is_opened(tmp_path):
    policy = NoticePolicy(profiles=("eu_art50",), state=str(tmp_path / "state.json"))
    with make_guard(policy):
        second = make_guard(policy)
        with pytest.raises(EmoGuardError, match=r"state file .* is kept by another guard"):
            second.open()
    with make_guard(policy):
        pass


def test_many_threads_in_one_conversation_lose_nothing():
    sink = ListSink()
    with make_guard(NoticePolicy(profiles=("us_ut_452",)), sinks=[sink]) as guard:

        def chat():
            for n in range(50):
                report = respond(guard, carrier="server", user_text="Are you a bot?")
                (guard.lost if n % 3 else lambda r: guard.deliver(r, "field"))(report)

        threads = [threading.Thread(target=chat) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not guard.outbox.waiting()
        guard.flush()
    assert len(sink.reports) == 200
    assert [report.notice.channel for report in sink.reports].count("field") == 4 * 17


def test_one_broken_stream_is_not_overdue_two_in_a_row_are_until_the_user_left():
    time = Time()
    with make_guard(now=time) as guard:
        counts = []
        for finish in ("cancelled", "cancelled", "stop", "cancelled"):
            respond(guard, finish)
            counts.append(guard.outbox.overdue())
        assert counts == [0, 1, 0, 0]
        for _ in range(2):
            respond(guard, "cancelled", conversation="other")
        assert guard.outbox.overdue() == 1
        time.wait(30 * 60)
        assert guard.outbox.overdue() == 0


def test_a_notice_that_its_server_forgot_is_overdue_after_a_minute():
    time = Time()
    with make_guard(now=time) as guard:
        report = respond(guard, carrier="server")
        assert guard.outbox.overdue() == 0
        time.wait(61)
        assert guard.outbox.overdue() == 1
        guard.deliver(report, "field")
        assert guard.outbox.overdue() == 0


def test_a_clock_that_breaks_leaves_the_response_and_is_counted_and_logged_once(caplog):
    def broken():
        raise OSError("no clock")

    sink = ListSink()
    with make_guard(now=broken, sinks=[sink]) as guard:
        reports = [respond(guard) for _ in range(3)]
        guard.flush()
    assert [report.faults for report in reports] == [("notices",)] * 3
    assert [report.status for report in reports] == ["scored"] * 3
    assert sink.reports == reports
    assert sum("notices failed" in record.message for record in caplog.records) == 1


def test_the_ledger_may_be_used_after_it_was_closed(tmp_path):
    policy = NoticePolicy(profiles=("eu_art50",), state=str(tmp_path / "state.json"))
    guard = make_guard(policy)
    respond(guard, conversation="a")
    guard.close()
    respond(guard, conversation="b")
    guard.close()
    assert len(json.loads((tmp_path / "state.json").read_text())["state"]) == 2


def test_a_policy_that_changes_is_followed_at_once():
    policy = {"now": NoticePolicy(profiles=("eu_art50",))}
    ledger = Ledger(lambda: policy["now"])
    report = ledger.decide(make_report(Request(conversation="c")), Request(), str)
    ledger.settle(report, "field")
    policy["now"] = NoticePolicy(profiles=("eu_art50", "cn_2026"))
    actual = ledger.decide(make_report(Request(conversation="c")), Request(), str).notice
    assert actual.profiles == ("cn_2026",)
    ledger.close(1)
