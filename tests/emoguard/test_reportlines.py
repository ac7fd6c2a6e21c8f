import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, reportlines
from emoguard.records import Receipt
from emoguard.testing import every_kind_of_report

RECEIPT = Receipt({"add": {"happy": 0.1}}, None, (1, 2), 0.1, 0.05, 0.06, 40, 1, 0)
REPORTS = every_kind_of_report()
REPORTS += [dataclasses.replace(REPORTS[0], receipt=RECEIPT, detail="d", faults=("reading",))]


def line(report):
    return json.dumps(report.as_dict()) + "\n"


def same(first, second):
    return first.as_dict() == second.as_dict()


def test_what_was_written_is_what_is_read(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(map(line, REPORTS)), encoding="utf-8")
    found = list(reportlines.read(path))
    assert len(found) == len(REPORTS)
    assert all(map(same, found, REPORTS))
    assert [r.steered for r in found] == [r.steered for r in REPORTS]


def test_lines_of_an_audit_log_have_keys_of_its_own():
    data = {"line": 3, "prev": "0" * 64, **REPORTS[0].as_dict(), "mac": "f" * 64, "later": [1]}
    assert same(reportlines.parse(data), REPORTS[0])


def test_a_line_from_before_there_was_a_sample_belongs_to_it():
    data = dataclasses.replace(REPORTS[0], sampled=False).as_dict()
    assert not reportlines.parse(data).sampled
    del data["sampled"]
    assert reportlines.parse(data).sampled


def test_a_line_from_before_attention_sinks_were_marked_has_none():
    report = next(each for each in REPORTS if each.attention_sinks and each.tokens)
    data = report.as_dict()
    assert same(reportlines.parse(data), report)
    del data["attention_sinks"]
    for token in data["tokens"]:
        del token["attention_sink"]
    old = reportlines.parse(data)
    assert old.attention_sinks == 0
    assert not any(token.attention_sink for token in old.tokens)


def test_a_last_line_that_was_being_written_is_left_out(tmp_path):
    path = tmp_path / "log"
    path.write_text(line(REPORTS[0]) + line(REPORTS[1])[:-40], encoding="utf-8")
    assert len(list(reportlines.read(path))) == 1


def test_a_line_that_was_torn_before_a_restart_is_left_out(tmp_path):
    def audited(number):
        data = {"line": number, "prev": "0" * 64, **REPORTS[0].as_dict(), "mac": "f" * 64}
        return json.dumps(data, separators=(",", ":"))

    path = tmp_path / "log"
    for cut in (1, 8, 9, 20, 200, -68, -1):
        path.write_text(f"{audited(1)}\n{audited(2)[:cut]}\n{audited(2)}\n", encoding="utf-8")
        assert len(list(reportlines.read(path))) == 2


@given(st.data())
def test_what_is_no_report_is_refused_and_its_line_is_named(tmp_path_factory, data):
    good = REPORTS[0].as_dict()
    key = data.draw(st.sampled_from(["id", "status", "scores", "phases", "version", "created"]))
    odd = data.draw(st.sampled_from([3, None, "x", [1], {"a": 1}]))
    broken = data.draw(
        st.sampled_from(
            ["text", "[]", "null", "{}", "\x00", json.dumps({k: good[k] for k in good if k != key})]
        )
        | st.just(json.dumps(good | {"scores": odd, "status": odd}))
    )
    path = tmp_path_factory.getbasetemp() / "bad.log"
    path.write_text(line(REPORTS[0]) + broken + "\n", encoding="utf-8")
    if key in ("phases", "version", "created") and broken.startswith('{"id"'):
        return  # these have defaults
    with pytest.raises(EmoGuardError, match=r"bad\.log:2: wanted a report"):
        list(reportlines.read(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(EmoGuardError, match="cannot be read"):
            list(reportlines.read(path))
