"""Which labels a guard reads and monitors, and what it refuses to be made of."""

import dataclasses
import uuid

import numpy as np
import pytest

from emoguard import Alert, EmoGuardError, Guard, Plan, Policy, Request
from emoguard.notices.policy import NoticePolicy
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    ListSink,
    make_calibration,
    make_probe,
    make_reading,
    put_reading,
)
from tests.support.guards import CALIBRATION, GUARD, OTHER_FILE, PROBE, put, report, summed


def test_each_model_file_gets_its_own_calibration():
    other = dataclasses.replace(CALIBRATION, identity=OTHER_FILE, scale=np.full(2, 7, np.float32))
    guard = Guard(PROBE, [CALIBRATION, other])
    assert guard.calibration(FAKE_IDENTITY) is CALIBRATION
    assert guard.calibration(OTHER_FILE) is other
    assert guard.calibration(dataclasses.replace(FAKE_IDENTITY, name="renamed")) is CALIBRATION
    assert np.allclose(
        guard.site(OTHER_FILE).readout.matrix * 7, PROBE.fold(None).matrix, atol=1e-6
    )


def test_a_policy_chooses_and_orders_labels():
    grid = CALIBRATION.means.copy()
    grid[:, 1] += 1
    calibration = dataclasses.replace(CALIBRATION, means=grid)
    guard = Guard(PROBE, [calibration], Policy(labels=("sad",)))
    result = summed(guard, make_reading(labels=1), Request())
    assert list(result.scores) == ["sad"]
    mean = result.scores["sad"].mean
    assert result.scores["sad"].rank == calibration.rank(np.array([0, mean]))[1]
    assert guard.site(FAKE_IDENTITY).readout.labels == ("sad",)


def test_a_policy_with_an_unknown_label_is_refused():
    with pytest.raises(EmoGuardError, match="unknown label glad"):
        Guard(PROBE, policy=Policy(labels=("glad",)))


def test_a_calibration_of_another_probe_is_refused():
    bigger = make_probe(FakeResiduals(), ("a", "b", "c"))
    with pytest.raises(EmoGuardError, match="calibration location must be finite of shape"):
        Guard(PROBE, [make_calibration(bigger, FAKE_IDENTITY)])


def judged(verdicts, policy=None):
    """A guard whose probe carries verdicts, calibrated so that every label has a threshold."""
    probe = dataclasses.replace(make_probe(FakeResiduals()), card={"verdicts": verdicts})
    return Guard(probe, [make_calibration(probe, FAKE_IDENTITY)], policy)


def test_labels_below_usable_are_read_and_marked_but_not_monitored():
    guard = judged({"happy": "usable", "sad": "weak"})
    assert guard.labels == ("happy", "sad")
    assert guard.monitored == ("happy",)
    site = guard.site(FAKE_IDENTITY)
    assert site.labels == ("happy",)
    assert list(site.thresholds) == ["happy"]
    assert site.thresholds["happy"] is not None
    report = summed(guard, make_reading(tokens=20), Request())
    assert {n: s.verdict for n, s in report.scores.items()} == {"happy": "usable", "sad": "weak"}
    assert report.scores["sad"].crossings is None


def test_labels_below_usable_are_monitored_where_the_policy_names_them():
    guard = judged({"happy": "usable", "sad": "not usable"}, Policy(labels=("sad",)))
    assert guard.monitored == ("sad",)
    assert guard.site(FAKE_IDENTITY).thresholds["sad"] is not None
    report = summed(guard, make_reading(tokens=20, labels=1), Request())
    assert report.scores["sad"].verdict == "not usable"


def test_amplifying_labels_are_monitored_from_the_start():
    weak = NoticePolicy(amplifying=("sad",))
    guard = judged({"happy": "usable", "sad": "weak"}, Policy(notices=weak))
    assert guard.monitored == ("happy", "sad")


@pytest.mark.parametrize("label", ["sad", "glad"])
def test_an_amplifying_label_that_is_not_read_is_refused_when_the_guard_is_made(label):
    policy = Policy(labels=("happy",), notices=NoticePolicy(amplifying=(label,)))
    with pytest.raises(EmoGuardError, match=f"{label} is not read, so it never rises: take it"):
        Guard(PROBE, [CALIBRATION], policy)


def test_an_amplifying_label_that_is_not_monitored_is_refused():
    guard = judged({"happy": "usable", "sad": "weak"})
    with pytest.raises(EmoGuardError, match=r"sad is weak: .* never rises; restart with it"):
        guard.check(Policy(notices=NoticePolicy(amplifying=("sad",))))
    guard.check(Policy(notices=NoticePolicy(amplifying=("happy",))))


def test_the_alarm_rate_is_shared_by_the_labels_that_are_monitored():
    alone = judged({"happy": "usable", "sad": "weak"}).site(FAKE_IDENTITY).thresholds["happy"]
    named = judged({}, Policy(labels=("happy",))).site(FAKE_IDENTITY).thresholds["happy"]
    assert alone == named


@pytest.mark.parametrize(
    "shown", [None, "usable", ["weak"], {"happy": "superb"}, {"happy": ["weak"]}, {"other": "weak"}]
)
def test_a_card_without_verdicts_or_with_nonsense_monitors_everything(shown):
    guard = judged(shown)
    assert guard.monitored == guard.labels == ("happy", "sad")
    report = summed(guard, make_reading(tokens=20), Request())
    assert report.scores["happy"].verdict is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"probe": "smollm2-135m-instruct"}, "probe: wanted a Probe, got .*: Guard.load opens"),
        ({"probe": None}, "probe: wanted a Probe, got null"),
        ({"calibrations": Policy()}, "calibrations: .* got Policy: a policy goes into policy="),
        ({"calibrations": CALIBRATION}, "calibrations: wanted a list of Calibration"),
        ({"calibrations": ["calm"]}, 'calibrations: .* got "calm"'),
        ({"calibrations": None}, "calibrations: .* got null"),
        ({"sinks": "prometheus"}, 'sinks: wanted a list of sinks, got "prometheus"'),
        ({"sinks": ListSink()}, "sinks: wanted a list of sinks, got ListSink"),
        ({"sinks": {"prometheus": {}}}, "sinks: .* got a mapping"),
        ({"sinks": [ListSink(), {"rate": {}}]}, r"sinks\.1: wanted an object with a method report"),
        ({"sinks": [ListSink]}, r"sinks\.0: .* got the class ListSink"),
        ({"sinks": [None]}, r"sinks\.0: .* got null"),
        ({"on_alert": "print"}, 'on_alert: wanted a function, got "print"'),
        ({"now": 3.0}, "now: wanted a function, got 3.0"),
    ],
)
def test_an_argument_of_another_kind_is_named_when_the_guard_is_made(arguments, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        Guard(**({"probe": PROBE, "calibrations": [CALIBRATION]} | arguments))


def test_sinks_and_calibrations_may_come_one_by_one():
    sink = ListSink()
    with Guard(PROBE, iter([CALIBRATION]), sinks=(each for each in [sink])) as guard:
        result = put(guard, report(guard))
    assert sink.reports == [result]
    assert guard.calibrations == (CALIBRATION,)


def test_a_callback_that_is_falsy_is_called_all_the_same():
    class Counter(list):
        def __call__(self, alert):
            self.append(alert)

    called = Counter()
    with Guard(PROBE, on_alert=called) as guard:
        guard.outbox.alert(Alert("list", "happy", "info", "a report came", "r"))
    assert len(called) == 1


def test_a_plan_may_be_a_mapping():
    result = GUARD.site(FAKE_IDENTITY).steering({"cap": {"sad": 0.9}})
    assert result.plan == Plan(cap={"sad": 0.9})
    with pytest.raises(EmoGuardError, match="plan: wanted a mapping"):
        GUARD.site(FAKE_IDENTITY).steering("sad")


@pytest.mark.parametrize("fields", [{"id": 17}, {"id": uuid.UUID(int=1)}, {"conversation": 42}])
def test_names_from_a_database_reach_the_report_the_sinks_and_the_notices(fields):
    sink, policy = ListSink(), Policy(notices=NoticePolicy(profiles=("eu_art50",)))
    with Guard(PROBE, [CALIBRATION], policy, [sink]) as guard:
        result = put_reading(guard, make_reading(), Request(**fields), lambda: "Hello.")
    assert sink.reports == [result]
    assert result.notice is not None
    assert result.faults == ()
    assert {name: getattr(result, name) for name in fields} == {
        k: str(v) for k, v in fields.items()
    }
