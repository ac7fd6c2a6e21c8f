import dataclasses
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import Alert, EmoGuardError, Guard, Plan, Policy, Request, summary
from emoguard.notices.policy import NoticePolicy
from emoguard.records import PHASES
from emoguard.runtime.reading import Steered
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering.prepare import prepare
from emoguard.testing import (
    FAKE_IDENTITY,
    FailingSink,
    FakeResiduals,
    ListSink,
    make_calibration,
    make_probe,
    make_reading,
    put_reading,
)

PROBE = make_probe(FakeResiduals())
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
GUARD = Guard(PROBE, [CALIBRATION])
OTHER_FILE = dataclasses.replace(FAKE_IDENTITY, quantisation="Q4_K_M")


def summed(guard, reading, request=None):
    return summary.report(reading, request or Request(id="r"), guard.site(reading.identity))


def report(guard=GUARD, request=None, **changes):
    return summed(guard, make_reading(**changes), request)


def put(guard, report):
    return guard.outbox.put(report, Request(), str)


@given(seed=st.integers(0, 1000), tokens=st.integers(1, 60), window=st.integers(1, 40))
def test_mean_and_rolling_peak_equal_brute_force(seed, tokens, window):
    reading = make_reading(tokens, seed=seed)
    policy = Policy(alarms=AlarmPolicy(window_tokens=window))
    made = summed(Guard(PROBE, [CALIBRATION], policy), reading)
    rows = reading.rows.astype(np.float64)
    peaks = [rows[t : t + window].mean(axis=0) for t in range(tokens - window + 1)]
    for column, score in enumerate(made.scores.values()):
        assert score.mean == pytest.approx(rows[:, column].mean(), abs=1e-9)
        wanted = max(peak[column] for peak in peaks) if peaks else None
        assert score.peak == pytest.approx(wanted, abs=1e-9)
        assert score.rank == CALIBRATION.rank(np.full(2, score.mean))[column]
    assert made.short == (tokens < window)
    assert all((score.peak is None) == made.short for score in made.scores.values())


def test_reasoning_is_counted_and_not_averaged():
    rows = np.zeros((30, 2), np.float32)
    rows[5:12] = 1000
    phases = np.array([0] + [2] * 4 + [1] * 7 + [2] * 18, np.uint8)
    made = report(rows=rows, phases=phases, tokens=30)
    assert made.phases == {"preparation": 1, "reasoning": 7, "response": 22}
    assert [(s.mean, s.peak) for s in made.scores.values()] == [(0, 0), (0, 0)]
    assert made.tokens_scored == 30


def test_attention_sinks_are_counted_and_in_no_score():
    rows = make_reading(40).rows.copy()
    rows[:3] = 141
    made = report(rows=rows, attention_sinks=3, request=Request(scores="tokens"))
    without = report(rows=rows[3:], tokens=37, phases=np.full(37, 2, np.uint8))
    assert made.scores == without.scores
    assert (made.status, made.short) == ("scored", False)
    assert made.tokens_scored == made.completion_tokens == 40
    assert (made.attention_sinks, made.tokens_averaged) == (3, 37)
    assert [token.attention_sink for token in made.tokens] == [True] * 3 + [False] * 37
    assert all(token.z == (0, 0) for token in made.tokens[:3])
    assert np.array_equal(np.array([token.z for token in made.tokens[3:]], np.float32), rows[3:])


def test_attention_sinks_shorten_a_response():
    assert not report(tokens=16).short
    assert report(tokens=16, attention_sinks=1).short
    assert report(tokens=16, attention_sinks=1).scores["happy"].peak is None
    whole = report(tokens=4, attention_sinks=4)
    assert (whole.status, whole.scores, whole.tokens_averaged) == ("scored", {}, 0)


def test_an_attention_sink_that_was_not_read_is_still_missing():
    rows = make_reading(20).rows.copy()
    rows[0] = np.nan
    made = report(tokens=20, rows=rows, attention_sinks=1, request=Request(scores="tokens"))
    assert (made.status, made.tokens_scored) == ("incomplete", 19)
    assert made.tokens[0].z == (None, None)


def test_reasoning_at_an_attention_sink_is_counted_once():
    phases = np.array([0] + [1] * 3 + [2] * 16, np.uint8)
    made = report(tokens=20, phases=phases, attention_sinks=2)
    assert (made.attention_sinks, made.tokens_averaged) == (1, 16)


def test_a_response_of_reasoning_only_has_no_scores():
    made = report(tokens=4, phases=np.full(4, PHASES.index("reasoning"), np.uint8))
    assert (made.status, made.scores, made.short) == ("scored", {}, True)


HOLE = np.array([[0, 1], [np.nan, np.nan], [2, 3]], np.float32)


@pytest.mark.parametrize(
    ("changes", "status", "has_scores"),
    [
        ({}, "scored", True),
        ({"tokens": 0}, "scored", False),
        ({"identity": OTHER_FILE}, "uncalibrated", True),
        ({"finish": "cancelled"}, "cancelled", True),
        ({"rows": HOLE, "tokens": 3}, "incomplete", False),
        ({"rows": HOLE, "tokens": 3, "finish": "cancelled"}, "incomplete", False),
        ({"rows": HOLE, "tokens": 3, "fault": "x"}, "error", False),
        ({"fault": "x", "finish": "cancelled"}, "error", False),
        ({"skipped": "beam search"}, "skipped", False),
        ({"skipped": "beam search", "fault": "x"}, "skipped", False),
    ],
)
def test_status_says_what_may_be_averaged(changes, status, has_scores):
    made = report(**changes)
    assert (made.status, bool(made.scores)) == (status, has_scores)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_label_that_is_not_finite_makes_its_row_stale(bad):
    rows = np.zeros((20, 2), np.float32)
    rows[3, 1] = bad
    made = report(tokens=20, rows=rows, request=Request(scores="tokens"))
    assert (made.status, made.tokens_scored, made.scores) == ("incomplete", 19, {})
    assert made.tokens[3].z == (0.0, None)


def test_uncalibrated_scores_are_raw_and_without_rank():
    made = report(identity=OTHER_FILE)
    assert made.identity == OTHER_FILE.digest
    assert all(score.rank is None for score in made.scores.values())
    raw, folded = GUARD.site(OTHER_FILE).readout, PROBE.fold(None)
    assert np.array_equal(raw.matrix, folded.matrix)
    assert np.array_equal(raw.shift, folded.shift)


def test_each_model_file_gets_its_own_calibration():
    other = dataclasses.replace(CALIBRATION, identity=OTHER_FILE, scale=np.full(2, 7, np.float32))
    guard = Guard(PROBE, [CALIBRATION, other])
    assert guard.calibration(FAKE_IDENTITY) is CALIBRATION
    assert guard.calibration(OTHER_FILE) is other
    assert guard.calibration(dataclasses.replace(FAKE_IDENTITY, name="renamed")) is CALIBRATION
    assert np.allclose(
        guard.site(OTHER_FILE).readout.matrix * 7, PROBE.fold(None).matrix, atol=1e-6
    )


def test_report_is_pure():
    reading, request = make_reading(), Request(scores="tokens")
    before = reading.rows.copy()
    first, second = summed(GUARD, reading, request), summed(GUARD, reading, request)
    assert dataclasses.replace(first, created=0) == dataclasses.replace(second, created=0)
    assert np.array_equal(reading.rows, before)


def test_token_rows_come_only_on_request_and_in_order():
    reading = make_reading(5)
    assert summed(GUARD, reading, Request()).tokens == ()
    tokens = summed(GUARD, reading, Request(scores="tokens")).tokens
    assert [token.id for token in tokens] == reading.token_ids.tolist()
    assert [token.phase for token in tokens] == ["preparation"] + ["response"] * 4
    assert np.array_equal(np.array([token.z for token in tokens], np.float32), reading.rows)


def test_a_policy_chooses_and_orders_labels():
    grid = CALIBRATION.means.copy()
    grid[:, 1] += 1
    calibration = dataclasses.replace(CALIBRATION, means=grid)
    guard = Guard(PROBE, [calibration], Policy(labels=("sad",)))
    made = summed(guard, make_reading(labels=1), Request())
    assert list(made.scores) == ["sad"]
    mean = made.scores["sad"].mean
    assert made.scores["sad"].rank == calibration.rank(np.array([0, mean]))[1]
    assert guard.site(FAKE_IDENTITY).readout.labels == ("sad",)


def test_a_policy_with_an_unknown_label_is_refused():
    with pytest.raises(EmoGuardError, match="unknown label glad"):
        Guard(PROBE, policy=Policy(labels=("glad",)))


def test_a_calibration_of_another_probe_is_refused():
    bigger = make_probe(FakeResiduals(), ("a", "b", "c"))
    with pytest.raises(EmoGuardError, match="calibration location must be finite of shape"):
        Guard(PROBE, [make_calibration(bigger, FAKE_IDENTITY)])


def test_publish_tells_sinks_and_names_those_that_failed_before():
    sink = ListSink(alerting=True)
    with Guard(PROBE, sinks=[sink, FailingSink()]) as guard:
        first = put(guard, report(guard))
        assert first.faults == ()
        assert guard.flush()
        second = put(guard, report(guard, fault="x"))
        assert second.faults == ("reading", "sink:FailingSink")
        assert guard.flush()
        assert sink.reports == [first, second]
        assert [alert.report_id for alert in guard.alerts] == ["r", "r"]


def test_alerts_are_bounded_by_the_policy():
    with Guard(PROBE, policy=Policy(keep_reports=3), sinks=[ListSink(alerting=True)]) as guard:
        for name in "abcde":
            put(guard, dataclasses.replace(report(guard), id=name))
        assert guard.flush()
        assert [alert.report_id for alert in guard.alerts] == ["c", "d", "e"]


def alarming(**changes):
    return Guard(PROBE, [CALIBRATION], Policy(alarms=AlarmPolicy(**changes)))


BURSTS = np.zeros((80, 2), np.float32)
BURSTS[20:40, 0] = BURSTS[60:, 0] = 3.0


def test_crossings_are_counted_at_the_certified_threshold():
    threshold = GUARD.site(FAKE_IDENTITY).thresholds["happy"]
    assert 1 < threshold.level <= 1.1
    assert threshold.bound <= 0.5  # the family rate of 1 per 1,000, split over two labels
    made = report(rows=BURSTS, tokens=80)
    assert [score.crossings for score in made.scores.values()] == [2, 0]
    assert not made.short


def test_what_is_counted_live_is_what_the_report_says():
    live = GUARD.site(FAKE_IDENTITY).crossings()
    assert [n for row in BURSTS for n in live.update(row)] == [0, 0]


def test_short_responses_are_never_flagged():
    made = report(rows=np.full((15, 2), 9, np.float32), tokens=15)
    assert made.short
    assert [score.crossings for score in made.scores.values()] == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [{"rate_per_1000_tokens": 0.1}, {"window_tokens": 8}, {"hysteresis_sd": 0.5}],
    ids=str,
)
def test_without_a_certificate_for_this_policy_crossings_are_null(changes):
    guard = alarming(**changes)
    assert guard.site(FAKE_IDENTITY).thresholds == {"happy": None, "sad": None}
    made = report(guard, rows=BURSTS, tokens=80)
    assert [score.crossings for score in made.scores.values()] == [None, None]
    assert guard.site(FAKE_IDENTITY).crossings().update(np.full(2, 100.0)) == ()


def test_uncalibrated_responses_have_no_crossings():
    made = report(rows=BURSTS, tokens=80, identity=OTHER_FILE)
    assert [score.crossings for score in made.scores.values()] == [None, None]


def test_thresholds_follow_the_labels_of_the_policy():
    guard = Guard(PROBE, [CALIBRATION], Policy(labels=("sad",)))
    (threshold,) = guard.site(FAKE_IDENTITY).thresholds.values()
    assert threshold.bound <= 1.0
    made = report(guard, rows=BURSTS[:, :1], tokens=80)
    assert made.scores["sad"].crossings == 2


def sampled(policy, reports):
    sink = ListSink()
    with Guard(PROBE, [CALIBRATION], policy, [sink]) as guard:
        for made in reports:
            put(guard, made)
    return sink.reports


def test_sinks_are_told_of_a_sample_of_plain_responses_chosen_by_id():
    reports = [report(request=Request(id=f"r{n}")) for n in range(200)]
    policy = Policy(sample_ratio=0.25)
    seen = sampled(policy, reports)
    assert [r.id for r in seen] == [r.id for r in reports if policy.samples(r.id)]
    assert 25 < len(seen) < 80


def test_sinks_are_told_of_every_response_that_was_steered_halted_or_went_wrong():
    plain = report()
    steered = prepare(Plan(add={"happy": 0.05}), PROBE, CALIBRATION, 0.1)
    moves = np.full(40, 0.01, np.float32), np.zeros(40, bool), np.zeros(40, bool)
    others = [
        report(steered=Steered(steered, *moves)),
        report(finish="halted", halted="why"),
        report(finish="cancelled"),
        report(fault="RuntimeError: broken"),
        report(rows=np.full((40, 2), np.nan, np.float32)),
    ]
    assert len(sampled(Policy(sample_ratio=0.0), [plain, *others])) == len(others)


def test_a_report_says_whether_it_belongs_to_the_sample():
    policy = Policy(sample_ratio=0.25)
    reports = [report(request=Request(id=f"r{n}"), finish="halted") for n in range(50)]
    seen = sampled(policy, reports)
    assert [r.sampled for r in seen] == [policy.samples(r.id) for r in reports]
    assert {r.sampled for r in seen} == {True, False}


def test_a_receipt_sums_up_what_steering_did():
    steering = prepare(Plan(add={"happy": 0.05}), PROBE, CALIBRATION, 0.1)
    dose = np.array([0.05, 0.03, 0.0, np.nan], np.float32)
    clipped = np.array([True, False, False, True])
    faulted = np.array([False, False, True, False])
    made = report(tokens=4, steered=Steered(steering, dose, clipped, faulted, "ValueError: x"))
    receipt = made.receipt
    assert (receipt.applied, receipt.clipped, receipt.faulted) == (2, 1, 2)
    assert receipt.dose_median == pytest.approx(0.03)
    assert receipt.dose_max == pytest.approx(0.05)
    assert (receipt.bound, receipt.layers, receipt.asked) == (0.1, (1, 2), None)
    assert receipt.plan == {"add": {"happy": 0.05}}
    assert made.steered
    assert made.faults == ("steering",)
    assert made.detail == "ValueError: x"
    still = dataclasses.replace(receipt, applied=0)
    assert not dataclasses.replace(made, receipt=still).steered


def test_a_callback_that_raises_is_counted_and_disturbs_nobody(caplog):
    def broken(_alert):
        raise RuntimeError("injected")

    alert = Alert("crossing", "happy", "warning", "rose", "r")
    with Guard(PROBE, [CALIBRATION], on_alert=broken) as guard:
        guard.outbox.alert(alert)
        guard.flush()
        assert put(guard, report()).faults == ("callback",)
        assert list(guard.alerts) == [alert]
    assert "callback failed" in caplog.text


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
    with pytest.raises(EmoGuardError, match=r"sad was found weak .* never rises: restart with it"):
        guard.check(Policy(notices=NoticePolicy(amplifying=("sad",))))
    guard.check(Policy(notices=NoticePolicy(amplifying=("happy",))))


def test_the_alarm_rate_is_shared_by_the_labels_that_are_monitored():
    alone = judged({"happy": "usable", "sad": "weak"}).site(FAKE_IDENTITY).thresholds["happy"]
    named = judged({}, Policy(labels=("happy",))).site(FAKE_IDENTITY).thresholds["happy"]
    assert alone == named


@pytest.mark.parametrize(
    "told", [None, "usable", ["weak"], {"happy": "superb"}, {"happy": ["weak"]}, {"other": "weak"}]
)
def test_a_card_without_verdicts_or_with_nonsense_monitors_everything(told):
    guard = judged(told)
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
        made = put(guard, report(guard))
    assert sink.reports == [made]
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
    made = GUARD.site(FAKE_IDENTITY).steering({"cap": {"sad": 0.9}})
    assert made.plan == Plan(cap={"sad": 0.9})
    with pytest.raises(EmoGuardError, match="plan: wanted a mapping"):
        GUARD.site(FAKE_IDENTITY).steering("sad")


@pytest.mark.parametrize("fields", [{"id": 17}, {"id": uuid.UUID(int=1)}, {"conversation": 42}])
def test_names_from_a_database_reach_the_report_the_sinks_and_the_notices(fields):
    sink, policy = ListSink(), Policy(notices=NoticePolicy(profiles=("eu_art50",)))
    with Guard(PROBE, [CALIBRATION], policy, [sink]) as guard:
        made = put_reading(guard, make_reading(), Request(**fields), lambda: "Hello.")
    assert sink.reports == [made]
    assert made.notice is not None
    assert made.faults == ()
    assert {name: getattr(made, name) for name in fields} == {k: str(v) for k, v in fields.items()}
