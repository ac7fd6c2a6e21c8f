import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError
from emoguard.records import Receipt
from emoguard.sinks import reportlines
from emoguard.testing import every_kind_of_report

RECEIPT = Receipt({"add": {"happy": 0.1}}, None, (1, 2), 0.1, 0.05, 0.06, 40, 1, 0)
REPORTS = every_kind_of_report()
REPORTS += [dataclasses.replace(REPORTS[0], receipt=RECEIPT, detail="d", faults=("reading",))]


def line(report):
    return json.dumps(report.as_dict()) + "\n"


def same(first, second):
    return first.as_dict() == second.as_dict()


def read(data):
    return reportlines.read(json.dumps(data).encode(), "log:2")


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.status)
def test_a_written_report_reads_the_same(report):
    actual = read(report.as_dict())
    assert same(actual, report)
    assert actual.steered == report.steered


def test_lines_of_an_audit_log_have_keys_of_its_own():
    data = {"line": 3, "prev": "0" * 64, **REPORTS[0].as_dict(), "mac": "f" * 64, "later": [1]}
    assert same(reportlines.parse(data), REPORTS[0])


def test_a_line_from_before_there_was_a_sample_belongs_to_it():
    data = dataclasses.replace(REPORTS[0], sampled=False).as_dict()
    assert not reportlines.parse(data).sampled
    del data["sampled"]
    assert reportlines.parse(data).sampled


@given(st.data())
def test_a_line_without_a_report_is_refused_by_its_number(data):
    good = REPORTS[0].as_dict()
    key = data.draw(st.sampled_from(["id", "status", "scores", "model", "probe", "identity"]))
    odd = data.draw(st.sampled_from([3, None, "x", [1], {"a": 1}]))
    broken = data.draw(
        st.sampled_from(
            ["text", "[]", "null", "{}", "\x00", json.dumps({k: good[k] for k in good if k != key})]
        )
        | st.just(json.dumps(good | {"scores": odd, "status": odd}))
    )
    with pytest.raises(EmoGuardError, match=r"^log:2: wanted a report"):
        reportlines.read(broken.encode(), "log:2")


@pytest.mark.parametrize(
    "odd",
    [
        {"created": 1e300},
        {"created": -1},
        {"created": "today"},
        {"id": 7},
        {"sampled": "no"},
        {"attention_sinks": "x"},
        {"completion_tokens": None},
        {"tokens_scored": -1},
        {"overhead_seconds": "soon"},
        {"short": 1},
        {"backend": None},
        {"receipt": {**dataclasses.asdict(RECEIPT), "clipped": "x"}},
        {"identity": ["x"]},
        {"phases": {"response": 1e300}},
        {"phases": {"response": 10**200}},
        {"scores": {"happy": {"mean": "nan", "peak": None, "rank": None}}},
        {"scores": {"happy": {"mean": True, "peak": None, "rank": None}}},
        {"scores": {"happy": {"mean": 0, "peak": None, "rank": None, "crossings": "1"}}},
        {"receipt": {**dataclasses.asdict(RECEIPT), "applied": "many"}},
        {"notice": 3},
    ],
    ids=str,
)
def test_a_field_of_another_type_or_size_is_refused(odd):
    with pytest.raises(EmoGuardError, match=r"^log:2: wanted a report"):
        read(REPORTS[0].as_dict() | odd)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "NaN", "1e999"])
def test_json_that_breaks_parsers_is_refused(text):
    for line in (text, json.dumps(REPORTS[0].as_dict())[:-1] + ', "later": ' + text + "}"):
        with pytest.raises(EmoGuardError, match=r"^log:2: wanted a report"):
            reportlines.read(line.encode(), "log:2")


def test_an_id_may_hold_half_a_character():
    assert read(REPORTS[0].as_dict() | {"id": "\ud83d"}).id == "\ud83d"
