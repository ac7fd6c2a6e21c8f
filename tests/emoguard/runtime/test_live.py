import numpy as np
import pytest

from emoguard import Policy, Request
from emoguard.runtime.live import LiveAlarm
from emoguard.runtime.phases import Thinking
from emoguard.runtime.sessions import OpenSessions
from emoguard.sinks.policy import AlarmPolicy
from emoguard.testing import (
    FAKE_IDENTITY,
    AlarmingGuard,
    FakeJoint,
    FakeModel,
    FakeResiduals,
    make_calibration,
    make_probe,
)

PROBE = make_probe(FakeResiduals())
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
THINK, DONE = 7, 8


def spelled(token_ids):
    return " ".join(map(str, token_ids))


def follow(
    action="stop", levels=(1.0, None), prompt=(), thinking=None, *, on_alert=None, decode=spelled
):
    policy = Policy(alarms=AlarmPolicy(window_tokens=2, on_alert=action))
    guard = AlarmingGuard(PROBE, [CALIBRATION], policy, on_alert=on_alert)
    pairs = zip(PROBE.labels, levels, strict=True)
    guard.levels = {label: level for label, level in pairs if level is not None}
    site = guard.site(FAKE_IDENTITY)
    alert = guard.outbox.alert
    return guard, LiveAlarm.make(site, alert, lambda: "r", lambda: (prompt, thinking), decode)


def run(alarm, values, tokens=None):
    tokens = tokens or [20] * len(values)
    return [alarm.update(t, np.array([v, v])) for t, v in zip(tokens, values, strict=True)]


def test_nothing_follows_where_only_reports_are_wanted_or_nothing_is_certified():
    assert follow("report")[1] is None
    assert follow("stop", (None, None))[1] is None
    assert follow("callback")[1] is not None


def test_the_first_crossing_says_why_to_stop_and_tells_the_guard():
    guard, alarm = follow()
    reasons = run(alarm, [0, 3, 3, 3])
    assert [bool(why) for why in reasons] == [False, True, False, False]
    assert "happy rose over the certified threshold" in reasons[1]
    (alert,) = guard.alerts
    assert (alert.monitor, alert.label, alert.report_id) == ("crossing", "happy", "r")


def test_callbacks_do_not_stop_and_hear_of_every_crossing():
    guard, alarm = follow("callback")
    assert run(alarm, [3, 3, -3, -3, 3, 3]) == [None] * 6
    assert len(guard.alerts) == 2


def test_a_callback_gets_the_scores_and_the_text_of_the_window_that_crossed():
    called = []
    guard, alarm = follow("callback", on_alert=called.append)
    for token, z in ((20, (0.0, 1.0)), (21, (0.5, 2.0)), (22, (2.5, -1.0))):
        alarm.update(token, np.array(z))
    assert guard.flush()
    (alert,) = called
    assert (alert.label, alert.text) == ("happy", "21 22")
    assert alert.scores == {"happy": 1.5, "sad": 0.5}


def test_the_text_of_a_window_leaves_out_what_was_not_averaged():
    called = []
    guard, alarm = follow(
        "callback", prompt=(1, THINK), thinking=Thinking((THINK,), DONE), on_alert=called.append
    )
    run(alarm, [9, 9, 9, 9, 9], [20, 21, DONE, 22, 23])
    assert guard.flush()
    # The first token counts as preparation, reasoning follows until it is closed.
    assert [alert.text for alert in called] == ["20 22"]


def test_a_response_is_stopped_even_if_its_text_cannot_be_decoded():
    def broken(token_ids):
        raise ValueError(token_ids)

    guard, alarm = follow(decode=broken)
    assert [bool(why) for why in run(alarm, [3, 3])] == [False, True]
    assert len(guard.alerts) == 1


def test_the_text_of_an_alert_is_not_kept():
    guard, alarm = follow("callback")
    run(alarm, [3, 3])
    (alert,) = guard.alerts
    assert (alert.text, alert.scores) == ("", {"happy": 3.0, "sad": 3.0})


def test_labels_that_cross_together_are_all_named():
    guard, alarm = follow(levels=(1.0, 1.0))
    assert "happy, sad" in run(alarm, [3, 3])[1]
    assert [alert.label for alert in guard.alerts] == ["happy", "sad"]


@pytest.mark.parametrize(("prompt", "inside"), [((1, THINK), True), ((1, 2), False)])
def test_reasoning_tokens_never_alarm(prompt, inside):
    _, alarm = follow(prompt=prompt, thinking=Thinking((THINK,), DONE))
    reasons = run(alarm, [9, 9, 9, 9, 9], [20, 20, DONE, 20, 20])
    first = next(n for n, why in enumerate(reasons) if why)
    # The first token counts as preparation wherever the prompt ends.
    assert first == (3 if inside else 1)


@pytest.mark.parametrize("action", ["report", "callback", "stop"])
@pytest.mark.parametrize("closes", [False, True])
def test_reasoning_that_never_closes_alarms_at_the_end(action, closes):
    """A model that is talked into opening it could hide its answer there."""
    policy = Policy(alarms=AlarmPolicy(window_tokens=2, on_alert=action))
    called = []
    guard = AlarmingGuard(PROBE, [CALIBRATION], policy, on_alert=called.append)
    guard.levels = {PROBE.labels[0]: 1.0}
    joint = FakeJoint(FakeModel())
    joint.thinking = Thinking((THINK,), DONE)
    sessions = OpenSessions(guard, joint)
    session = sessions.open(Request(id="r"), [1, 2])
    for token in (THINK, 20, 20, 20, DONE if closes else 20):
        assert sessions.commit(session, token, np.array([9.0, 0.0], np.float32)) is None
    report = sessions.close(session, "length")
    assert report.reasoning == ("marked" if closes else "unclosed")
    assert bool(report.scores[PROBE.labels[0]].crossings) == (not closes)
    wanted = [] if closes or action == "report" else [PROBE.labels[0]]
    assert [alert.label for alert in guard.alerts] == wanted
    assert all("never closed" in alert.message for alert in guard.alerts)
    assert guard.flush()
    assert [(alert.text, alert.scores["happy"]) for alert in called] == [
        (session.text(), 9.0) for _ in wanted
    ]


def test_tokens_without_a_fresh_row_are_left_out():
    _, alarm = follow()
    assert [bool(why) for why in run(alarm, [3, np.nan, 3])] == [False, False, True]


@pytest.mark.parametrize("prompt", [(1,), (1, 1, 1)])
def test_attention_sinks_never_alarm(prompt):
    _, alarm = follow(prompt=prompt)
    # The first two tokens repeat the prompt's, so that the third row is the last of the sink.
    reasons = run(alarm, [99, 99, 99, 3, 3], [1, 1, 20, 20, 20])
    assert [bool(why) for why in reasons] == [False, False, False, False, True]


def test_a_prompt_of_two_tokens_has_no_attention_sink():
    _, alarm = follow(prompt=(1, 2))
    assert [bool(why) for why in run(alarm, [3, 3])] == [False, True]
