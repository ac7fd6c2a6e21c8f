"""What a report says of a reading."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import Guard, Plan, Policy, Request
from emoguard.records import PHASES
from emoguard.runtime.reading import Steered
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering.prepare import prepare
from emoguard.testing import (
    FAKE_IDENTITY,
    make_reading,
)
from tests.support.guards import CALIBRATION, GUARD, OTHER_FILE, PROBE, report, summed


@given(seed=st.integers(0, 1000), tokens=st.integers(1, 60), window=st.integers(1, 40))
def test_mean_and_rolling_peak_equal_brute_force(seed, tokens, window):
    reading = make_reading(tokens, seed=seed)
    policy = Policy(alarms=AlarmPolicy(window_tokens=window))
    result = summed(Guard(PROBE, [CALIBRATION], policy), reading)
    rows = reading.rows.astype(np.float64)
    peaks = [rows[t : t + window].mean(axis=0) for t in range(tokens - window + 1)]
    for column, score in enumerate(result.scores.values()):
        assert score.mean == pytest.approx(rows[:, column].mean(), abs=1e-9)
        wanted = max(peak[column] for peak in peaks) if peaks else None
        assert score.peak == pytest.approx(wanted, abs=1e-9)
        assert score.rank == CALIBRATION.rank(np.full(2, score.mean))[column]
    assert result.short == (tokens < window)
    assert all((score.peak is None) == result.short for score in result.scores.values())


def test_reasoning_is_counted_and_not_averaged():
    rows = np.zeros((30, 2), np.float32)
    rows[5:12] = 1000
    phases = np.array([0] + [2] * 4 + [1] * 7 + [2] * 18, np.uint8)
    result = report(rows=rows, phases=phases, tokens=30)
    assert result.phases == {"preparation": 1, "reasoning": 7, "response": 22}
    assert [(s.mean, s.peak) for s in result.scores.values()] == [(0, 0), (0, 0)]
    assert result.tokens_scored == 30


def test_attention_sinks_are_counted_and_in_no_score():
    rows = make_reading(40).rows.copy()
    rows[:3] = 141
    result = report(rows=rows, attention_sinks=3, request=Request(scores="tokens"))
    without = report(rows=rows[3:], tokens=37, phases=np.full(37, 2, np.uint8))
    assert result.scores == without.scores
    assert (result.status, result.short) == ("scored", False)
    assert result.tokens_scored == result.completion_tokens == 40
    assert (result.attention_sinks, result.tokens_averaged) == (3, 37)
    assert [token.attention_sink for token in result.tokens] == [True] * 3 + [False] * 37
    assert all(token.z == (0, 0) for token in result.tokens[:3])
    assert np.array_equal(np.array([token.z for token in result.tokens[3:]], np.float32), rows[3:])


def test_attention_sinks_shorten_a_response():
    assert not report(tokens=16).short
    assert report(tokens=16, attention_sinks=1).short
    assert report(tokens=16, attention_sinks=1).scores["happy"].peak is None
    whole = report(tokens=4, attention_sinks=4)
    assert (whole.status, whole.scores, whole.tokens_averaged) == ("scored", {}, 0)


def test_an_attention_sink_that_was_not_read_is_still_missing():
    rows = make_reading(20).rows.copy()
    rows[0] = np.nan
    result = report(tokens=20, rows=rows, attention_sinks=1, request=Request(scores="tokens"))
    assert (result.status, result.tokens_scored) == ("incomplete", 19)
    assert result.tokens[0].z == (None, None)


def test_reasoning_at_an_attention_sink_is_counted_once():
    phases = np.array([0] + [1] * 3 + [2] * 16, np.uint8)
    result = report(tokens=20, phases=phases, attention_sinks=2)
    assert (result.attention_sinks, result.tokens_averaged) == (1, 16)


def test_a_response_of_reasoning_only_has_no_scores():
    result = report(tokens=4, phases=np.full(4, PHASES.index("reasoning"), np.uint8))
    assert (result.status, result.scores, result.short) == ("scored", {}, True)


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
def test_status_decides_whether_scores_are_averaged(changes, status, has_scores):
    result = report(**changes)
    assert (result.status, bool(result.scores)) == (status, has_scores)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_label_that_is_not_finite_makes_its_row_stale(bad):
    rows = np.zeros((20, 2), np.float32)
    rows[3, 1] = bad
    result = report(tokens=20, rows=rows, request=Request(scores="tokens"))
    assert (result.status, result.tokens_scored, result.scores) == ("incomplete", 19, {})
    assert result.tokens[3].z == (0.0, None)


def test_uncalibrated_scores_are_raw_and_without_rank():
    result = report(identity=OTHER_FILE)
    assert result.identity == OTHER_FILE.digest
    assert all(score.rank is None for score in result.scores.values())
    raw, folded = GUARD.site(OTHER_FILE).readout, PROBE.fold(None)
    assert np.array_equal(raw.matrix, folded.matrix)
    assert np.array_equal(raw.shift, folded.shift)


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


def alarming(**changes):
    return Guard(PROBE, [CALIBRATION], Policy(alarms=AlarmPolicy(**changes)))


BURSTS = np.zeros((80, 2), np.float32)
BURSTS[20:40, 0] = BURSTS[60:, 0] = 3.0


def test_crossings_are_counted_at_the_certified_threshold():
    threshold = GUARD.site(FAKE_IDENTITY).thresholds["happy"]
    assert 1 < threshold.level <= 1.1
    assert threshold.bound <= 0.5  # the family rate of 1 per 1,000, split over two labels
    result = report(rows=BURSTS, tokens=80)
    assert [score.crossings for score in result.scores.values()] == [2, 0]
    assert not result.short


def test_live_crossings_equal_those_of_the_report():
    live = GUARD.site(FAKE_IDENTITY).crossings()
    assert [n for row in BURSTS for n in live.update(row)] == [0, 0]


def test_short_responses_are_never_flagged():
    result = report(rows=np.full((15, 2), 9, np.float32), tokens=15)
    assert result.short
    assert [score.crossings for score in result.scores.values()] == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [{"rate_per_1000_tokens": 0.1}, {"window_tokens": 8}, {"hysteresis_sd": 0.5}],
    ids=str,
)
def test_without_a_certificate_for_this_policy_crossings_are_null(changes):
    guard = alarming(**changes)
    assert guard.site(FAKE_IDENTITY).thresholds == {"happy": None, "sad": None}
    result = report(guard, rows=BURSTS, tokens=80)
    assert [score.crossings for score in result.scores.values()] == [None, None]
    assert guard.site(FAKE_IDENTITY).crossings().update(np.full(2, 100.0)) == ()


def test_uncalibrated_responses_have_no_crossings():
    result = report(rows=BURSTS, tokens=80, identity=OTHER_FILE)
    assert [score.crossings for score in result.scores.values()] == [None, None]


def test_thresholds_follow_the_labels_of_the_policy():
    guard = Guard(PROBE, [CALIBRATION], Policy(labels=("sad",)))
    (threshold,) = guard.site(FAKE_IDENTITY).thresholds.values()
    assert threshold.bound <= 1.0
    result = report(guard, rows=BURSTS[:, :1], tokens=80)
    assert result.scores["sad"].crossings == 2


def test_a_receipt_sums_up_the_steering():
    steering = prepare(Plan(add={"happy": 0.05}), PROBE, CALIBRATION, 0.1)
    dose = np.array([0.05, 0.03, 0.0, np.nan], np.float32)
    clipped = np.array([True, False, False, True])
    faulted = np.array([False, False, True, False])
    result = report(tokens=4, steered=Steered(steering, dose, clipped, faulted, "ValueError: x"))
    receipt = result.receipt
    assert (receipt.applied, receipt.clipped, receipt.faulted) == (2, 1, 2)
    assert receipt.dose_median == pytest.approx(0.03)
    assert receipt.dose_max == pytest.approx(0.05)
    assert (receipt.bound, receipt.layers, receipt.asked) == (0.1, (1, 2), None)
    assert receipt.plan == {"add": {"happy": 0.05}}
    assert result.steered
    assert result.faults == ("steering",)
    assert result.detail == "ValueError: x"
    still = dataclasses.replace(receipt, applied=0)
    assert not dataclasses.replace(result, receipt=still).steered


def test_how_reasoning_was_told_apart_is_reported():
    assert report().reasoning == "unknown"
    assert report(reasoning="unclosed").reasoning == "unclosed"
