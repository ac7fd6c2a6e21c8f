"""`emoguard watch-page`: what it refuses, what it shows of a log, and how it follows one."""

import asyncio
import json

import pytest
from emoguard_jsonl import AuditLog, Key
from emoguard_page import OperatorPage

from emoguard import EmoGuardError, Policy, Request
from emoguard.cli import main
from emoguard.cli.watch_page import Log
from emoguard.testing import make_report
from tests.plugins.page.test_page import LIVE, OPERATOR, read
from tests.support.wire import call

KEY = Key(b"k" * 32)


@pytest.fixture
def log(tmp_path):
    """An audit log of three responses, and the function that adds to it."""
    path = tmp_path / "audit.jsonl"

    def add(*names):
        sink = AuditLog(path, KEY)
        for name in names:
            sink.report(make_report(Request(id=name, conversation="whose it is")))
        sink.close()
        return path

    add("a", "b", "c")
    return add


def opened(path, **changes):
    options = {"policy": Policy(), "probe": None, "keep": 100} | changes
    shown = Log([str(path)], KEY, **options)
    shown.read()
    return shown


def view(shown):
    """Return the events that a viewer gets first."""
    page = OperatorPage(shown)

    async def asked(scope, receive, send):
        await page(scope | {"query_string": OPERATOR.encode()}, receive, send)

    return dict(read(call(asked, b"", path=LIVE, method="GET", leave_after=8).body))


def test_a_log_is_shown_as_the_operators_view(log):
    events = view(opened(log()))
    assert [row["id"] for row in events["responses"]] == ["a", "b", "c"]
    assert events["state"]["counts"]["status"] == {"scored": 3}
    assert events["state"]["learning"]
    about = events["about"]
    assert [label["name"] for label in about["labels"]] == ["happy", "sad"]
    assert (about["chat"], about["calibrated"]) == (False, True)
    assert "whose it is" not in json.dumps(events)


def test_a_log_that_grows_is_followed(log):
    shown = opened(log())
    shown._next = 0
    log("d")
    asyncio.run(shown.refresh())
    assert [row["id"] for row in view(shown)["responses"]] == ["a", "b", "c", "d"]


def test_a_missing_log_is_reported_and_the_reports_read_stay(log):
    path = log()
    shown = opened(path)
    path.unlink()
    shown._next = 0
    asyncio.run(shown.refresh())
    events = view(shown)
    assert len(events["responses"]) == 3
    assert "there is no audit log" in events["state"]["log_error"]


def test_an_error_stays_on_the_page_until_the_log_can_be_read_again(log):
    path = log()
    content = path.read_bytes()
    shown = opened(path)
    path.write_bytes(b"")
    for _ in range(2):
        shown._next = 0
        asyncio.run(shown.refresh())
        assert "holds no report" in shown.state()["log_error"]
    path.write_bytes(content)
    shown._next = 0
    asyncio.run(shown.refresh())
    assert shown.state()["log_error"] is None


def test_lines_that_the_key_does_not_vouch_for_are_left_out_and_said(log):
    path = log()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    events = view(opened(path))
    assert "NOT SOUND: missing" in events["about"]["cautions"][0]


def test_only_the_last_responses_are_kept(log):
    assert [row["id"] for row in view(opened(log(), keep=2))["responses"]] == ["b", "c"]


def test_there_is_no_model_to_ask(log):
    page = OperatorPage(opened(log()))
    assert call(page, {"messages": []}, path="/emoguard/answer").status == 404
    assert call(page, b"", path="/", method="GET").headers["location"] == "/emoguard/"
    assert call(page, b"", path="/v1/models", method="GET").status == 404


def test_an_empty_log_is_refused(tmp_path):
    AuditLog(tmp_path / "audit.jsonl", KEY).close()
    with pytest.raises(EmoGuardError, match="holds no report"):
        opened(tmp_path / "audit.jsonl")


def test_a_probe_of_another_model_is_refused(log):
    with pytest.raises(EmoGuardError, match="has no calibration for the model of this log"):
        opened(log(), probe="smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        ([], "give --key-file or --key-env"),
        (["--key-file", "{key}"], "NOT SOUND: changed"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(log, tmp_path, capsys, options, words):
    Key.create(tmp_path / "key")
    options = [option.format(key=tmp_path / "key") for option in options]
    assert main(["watch-page", str(log()), *options]) != 0
    assert words in capsys.readouterr().err
