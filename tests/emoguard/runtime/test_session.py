import threading

import numpy as np
import pytest

from emoguard import Guard, Request
from emoguard.runtime.session import REQUEST, Session, take_request
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    ListSink,
    make_calibration,
    make_probe,
    make_site,
    put_reading,
)

PROBE = make_probe(FakeResiduals())


def session(**changes):
    return Session(Request(id="a"), make_site(), "fake", [1, 2], **changes)


def test_a_session_reports_the_rows_and_tokens_it_was_given():
    sink = ListSink()
    open_session = session()
    for token in range(20):
        open_session.commit(token, np.array([token, 1], np.float32))
    with Guard(PROBE, [make_calibration(PROBE, FAKE_IDENTITY)], sinks=[sink]) as guard:
        report = put_reading(
            guard, open_session.reading("length"), open_session.request, open_session.text
        )
    assert sink.reports == [report]
    assert (report.id, report.status, report.finish) == ("a", "scored", "length")
    assert report.completion_tokens == report.tokens_scored == 20
    assert report.scores["happy"].mean == pytest.approx(9.5)


def test_a_token_without_its_row_makes_the_report_incomplete():
    open_session = session()
    open_session.commit(5, np.zeros(2, np.float32))
    open_session.token_ids.append(6)
    report = put_reading(Guard(PROBE), open_session.reading("stop"))
    assert (report.status, report.completion_tokens, report.tokens_scored) == ("incomplete", 2, 1)


def test_the_first_fault_is_kept():
    open_session = session()
    open_session.fail(RuntimeError("first"))
    open_session.fail(RuntimeError("second"))
    report = put_reading(Guard(PROBE), open_session.reading("stop"))
    assert (report.status, report.detail) == ("error", "RuntimeError: first")
    assert report.faults == ("reading",)


def test_a_session_can_be_read_while_another_thread_commits():
    open_session = session()
    stop = threading.Event()

    def generate():
        while not stop.is_set():
            open_session.commit(1, np.ones(2, np.float32))

    thread = threading.Thread(target=generate)
    thread.start()
    try:
        for _ in range(20):
            reading = open_session.reading("unknown")
            assert np.isfinite(reading.rows).all()
            assert len(reading.rows) == len(reading.token_ids) == len(reading.phases)
    finally:
        stop.set()
        thread.join()


def test_an_empty_session_has_rows_of_the_right_width():
    assert session().reading("stop").rows.shape == (0, 2)


def test_the_request_of_the_call_wins_over_the_context():
    value, around = Request(), Request()
    token = REQUEST.set(around)
    try:
        kwargs = {"emoguard": value, "max_new_tokens": 4}
        assert take_request(kwargs) is value
        assert kwargs == {"max_new_tokens": 4}
        assert take_request({}) is around
    finally:
        REQUEST.reset(token)
    assert take_request({}) not in (value, around)


@pytest.mark.parametrize(
    ("value", "came"),
    [("tokens", '"tokens"'), ({"id": "a"}, "a mapping"), (True, "true"), ([Request()], "a list")],
)
def test_anything_but_a_request_is_refused(value, came):
    with pytest.raises(
        TypeError, match=rf"emoguard= takes an emoguard\.Request, got {came}: write"
    ):
        take_request({"emoguard": value})
    token = REQUEST.set(value)
    try:
        with pytest.raises(TypeError, match=rf"REQUEST holds an emoguard\.Request, got {came}"):
            take_request({})
        assert take_request({"emoguard": Request("a")}).id == "a"
    finally:
        REQUEST.reset(token)


def test_none_is_no_request():
    assert take_request({"emoguard": None}).id != take_request({"emoguard": None}).id


@pytest.mark.parametrize(
    ("prompt", "tokens", "sinks"),
    [([5], [6, 7, 8], 1), ([5, 5], [5, 7, 8], 2), ([5, 6], [5, 5], 0), ([], [5, 5], 0)],
)
def test_rows_read_at_an_attention_sink_are_told_by_the_tokens_before_them(prompt, tokens, sinks):
    open_session = Session(Request(), make_site(), "fake", prompt)
    for token in tokens:
        open_session.commit(token, np.zeros(2, np.float32))
    assert open_session.reading("stop").attention_sinks == sinks
