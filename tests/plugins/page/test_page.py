"""The page's server, called as a browser would: what it sends, to whom, and what never waits."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emoguard_asgi import EmoGuardMiddleware
from emoguard_page import Page, Traffic, desk, files, operators

from emoguard import EmoGuardError, Guard, Policy, Request
from emoguard.policy.policy import PagePolicy, RequestPolicy
from emoguard.runtime.disabled import DisabledWatch
from emoguard.testing import FakeModel
from tests.plugins.page import scripted
from tests.support.wire import CHAT, InnerApp, call, chunk, event, stream

STATIC = Path(files.__file__).parent / "static"
LIVE, ANSWER, OPERATOR = "/emoguard/live", "/emoguard/answer", "view=operator"


@pytest.fixture
def served():
    """A scripted server under its page."""
    app, watch, traffic = scripted.watched()
    yield Served(app, watch, traffic)
    watch.detach()
    watch.guard.close()


class Served:
    """A page, and what stands behind it."""

    def __init__(self, app, watch, traffic, **options):
        self.app, self.watch, self.traffic = app, watch, traffic
        self.page = scripted.page(app, watch, **options)

    def events(self, path, content=None, *, query="", leave_after=None, headers=()):
        """Return the events of a stream as (name, data)."""
        method = "GET" if content is None else "POST"
        page = self.page

        async def asked(scope, receive, send):
            await page(scope | {"query_string": query.encode()}, receive, send)

        answer = call(
            asked,
            content or b"",
            path=path,
            method=method,
            leave_after=leave_after,
            headers=headers,
        )
        assert answer.status == 200, answer.body
        return read(answer.body)

    def say(self, prompt="Hi", **more):
        """Return the frames' spans and the end of an answer."""
        content = {"messages": [{"role": "user", "content": prompt}]} | more
        events = self.events(ANSWER, content)
        assert [name for name, _ in events if name != "frame"] == ["begin", "end"]
        spans = [span for name, data in events if name == "frame" for span in data["spans"]]
        return spans, events[-1][1]


def read(raw):
    """Return the events of a stream."""
    results = []
    for block in raw.decode().split("\n\n"):
        parts = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "event" in parts:
            results.append((parts["event"], json.loads(parts["data"])))
    return results


def test_an_answer_comes_with_a_reading_for_every_token(served):
    spans, end = served.say()
    assert "".join(text for text, *_ in spans) == scripted.STORY
    (report,) = served.watch.reports
    read = [z for _, z, _ in spans]
    assert len(read) == report.completion_tokens == len(scripted.TELLING)
    assert read[0] is None  # at an attention sink
    for z, token in zip(read[1:], report.tokens[1:], strict=True):
        assert z == pytest.approx(token.z, abs=0.001)
    assert end["report"]["scores"]["sad"]["crossings"] == 1
    assert end["notice"]["kind"] == "ai"
    assert (end["finish"], end["error"]) == ("stop", None)
    assert "tokens" not in end["report"]


def test_the_request_is_a_clients_and_the_policy_holds_for_it(served):
    _, end = served.say(emoguard={"plan": {"add": {"happy": 0.05}}, "conversation": "c"})
    assert end["report"]["receipt"]["plan"] == {"add": {"happy": 0.05}}
    assert end["notice"]["kind"] == "steered"
    _, end = served.say(emoguard={"plan": {"add": {"happy": 0.5}}})
    assert "max_dose_ratio" in end["error"]
    assert end["report"] is None
    assert [each["model"] for each in served.app.asked] == ["scripted"]
    assert all(each["stream"] for each in served.app.asked)


def test_the_policys_denials_hold_here_too():
    app, watch, traffic = scripted.watched(replace(scripted.POLICY, requests=RequestPolicy()))
    _, end = Served(app, watch, traffic).say(emoguard={"plan": {"add": {"happy": 0.05}}})
    assert end["report"]["denied"] == ["plan"]
    assert end["report"]["receipt"] is None
    assert not watch.guard.policy.requests.scores  # the page's own readings are no client's wish


def test_an_unwatched_answer_is_text_without_readings(served):
    inner = InnerApp(None, stream(event(chunk("Hello")), event(chunk(finish="stop"))))
    served.page = Page(inner, served.watch)
    spans, end = served.say()
    assert (spans, end["report"], end["finish"]) == ([["Hello"]], None, "stop")


def test_an_app_that_breaks_is_said_and_logged(served, caplog):
    async def broken(scope, receive, send):
        raise RuntimeError("out of memory")

    served.page = Page(broken, served.watch)
    spans, end = served.say()
    assert spans == []
    assert end["error"] == "the server broke off the answer: RuntimeError: out of memory"
    assert "out of memory" in caplog.text


def test_a_client_that_leaves_leaves_nothing_open(served):
    content = {"messages": [{"role": "user", "content": "hold"}]}

    async def go():
        gone = asyncio.Event()
        waiting = [{"type": "http.request", "body": json.dumps(content).encode()}]

        async def receive():
            if waiting:
                return waiting.pop() | {"more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if b"event: frame" in message.get("body", b""):
                gone.set()
                served.app.go.set()

        scope = {"type": "http", "method": "POST", "path": ANSWER, "headers": HOST}
        await served.page(scope, receive, send)

    asyncio.run(go())
    assert served.watch.sessions.now() == []
    assert served.say()[1]["report"]["status"] == "scored"


HOST = [(b"host", b"127.0.0.1:8000")]


def test_a_viewer_that_never_reads_keeps_no_answer_waiting(served):
    async def go():
        async def stuck(_message):
            await asyncio.Event().wait()

        async def forever():
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": LIVE, "headers": HOST}
        viewers = [
            asyncio.create_task(
                served.page(scope | {"query_string": b"view=operator"}, forever, stuck)
            )
            for _ in range(50)
        ]
        await asyncio.sleep(0)
        sent = []

        async def send(message):
            sent.append(message)

        body = json.dumps({"messages": [{"role": "user", "content": "long"}], "stream": True})
        waiting = [{"type": "http.request", "body": body.encode(), "more_body": False}]

        async def receive():
            return waiting.pop() if waiting else await forever()

        await served.page(scope | {"method": "POST", "path": CHAT}, receive, send)
        for viewer in viewers:
            viewer.cancel()
        await asyncio.gather(*viewers, return_exceptions=True)
        return sent

    sent = asyncio.run(go())
    assert b"".join(each.get("body", b"") for each in sent).count(b"data: {") == 1001


def test_the_bytes_of_the_api_are_the_servers(served):
    content = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    plain = call(EmoGuardMiddleware(served.app, served.watch), content)
    paged = call(served.page, content)

    def nameless(answer):
        return re.sub(rb'"id": "[0-9a-f]{32}"', b"", answer.body), answer.start

    assert nameless(plain) == nameless(paged)
    assert b'"emoguard"' in paged.body


def test_the_operators_view_has_kept_and_new_responses(served):
    served.say()
    assert served.watch.guard.flush()
    events = dict(served.events(LIVE, query=OPERATOR, leave_after=8))
    assert list(events) == ["about", "reset", "responses", "state", "alerts", "open"]
    (row,) = events["responses"]
    assert row["crossings"][scripted.LABELS.index("sad")] == 1
    assert row["notice"]["channel"] == "field"
    assert events["state"]["counts"]["notice"] == {"given": 1}
    assert events["about"]["labels"][1]["threshold"] == pytest.approx(1.05)


def test_a_page_of_answers_is_not_sent_the_traffic(served):
    served.say()
    assert [name for name, _ in served.events(LIVE, leave_after=3)] == ["about"]


def test_nothing_is_computed_when_nobody_looks():
    asked = []

    class Counting(Traffic):
        def since(self, number):
            asked.append("since")
            return super().since(number)

        def counts(self):
            asked.append("counts")
            return super().counts()

    app, watch, traffic = scripted.watched(kind=Counting)
    counting = Served(app, watch, traffic)
    call(counting.page, {"messages": [{"role": "user", "content": "Hi"}], "stream": True})
    counting.events(LIVE, leave_after=3)
    assert watch.guard.flush()
    assert (traffic.taken, asked) == (1, [])
    counting.events(LIVE, query=OPERATOR, leave_after=7)
    assert set(asked) == {"since", "counts"}
    watch.detach()


@pytest.mark.parametrize("curves", [False, True])
def test_scores_of_an_open_answer_are_shown_only_where_the_policy_says_so(curves):
    policy = replace(scripted.POLICY, page=PagePolicy(curves=curves))
    _, watch, _ = scripted.watched(policy)
    session = watch.sessions.open(Request(conversation="whose it is"), [1, 2])
    for number in range(20):
        watch.sessions.commit(session, number % 9, np.full(5, number, np.float32))
    (shown,) = operators.open_responses(watch, curves=curves)
    assert shown["tokens"] == 20
    assert ("curves" in shown) is curves
    if curves:
        assert [len(each) for each in shown["curves"]] == [5] * 5  # 20 tokens, windows of 16
        assert shown["curves"][0][-1] == np.mean(range(4, 20)).round(2)
    assert "whose it is" not in str(shown)
    watch.detach()


def test_streams_end_when_the_server_does(served):
    served.page = scripted.page(served.app, served.watch, is_open=lambda: False)
    assert [name for name, _ in served.events(LIVE)] == ["bye"]


def test_one_viewer_too_many_is_refused(served, monkeypatch):
    monkeypatch.setattr(desk, "MOST_VIEWERS", 0)
    answer = call(served.page, b"", path=LIVE, method="GET")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/emoguard", "GET", 307),
        ("/emoguard/", "GET", 200),
        ("/emoguard/", "HEAD", 200),
        ("/emoguard/main.js", "GET", 200),
        ("/emoguard/runbook.md", "GET", 200),
        ("/emoguard/../page.py", "GET", 404),
        ("/emoguard/%2e%2e/page.py", "GET", 404),
        ("/emoguard/nothing", "GET", 404),
        ("/emoguard/", "POST", 405),
        (LIVE, "POST", 405),
        (ANSWER, "GET", 405),
    ],
)
def test_files_are_the_pages_own_and_nothing_else(served, path, method, status):
    answer = call(served.page, b"", path=path, method=method)
    assert answer.status == status
    assert served.app.asked == []


def test_a_file_that_the_browser_has_is_not_sent_again(served):
    tag = call(served.page, b"", path="/emoguard/", method="GET").headers["etag"]
    known = [(b"if-none-match", tag.encode())]
    again = call(served.page, b"", path="/emoguard/", method="GET", headers=known)
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("path", ["/emoguard/", "/emoguard/main.js", LIVE])
def test_no_other_host_and_nothing_inline_is_ever_asked(served, path):
    headers = call(served.page, b"", path=path, method="GET", leave_after=2).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_files_name_no_other_host_and_parse_no_text_as_html():
    assert len(list(STATIC.iterdir())) > 10
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        known = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]", known.replace("://", "//")), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), (
            path
        )
        assert not re.search(r"\sstyle=|\son[a-z]+=", text), path


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"evil.example:8000")],
        [*HOST, (b"origin", b"https://evil.example")],
        [*HOST, (b"sec-fetch-site", b"cross-site")],
        [*HOST, (b"sec-fetch-site", b"same-site")],
        [],
    ],
)
@pytest.mark.parametrize("path", [LIVE, ANSWER])
def test_pages_of_other_sites_get_nothing(served, headers, path):
    method = "GET" if path == LIVE else "POST"
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(served.page(scope, None, send))
    assert sent[0]["status"] == 403
    assert served.app.asked == []


def test_a_named_host_is_served(served):
    page = scripted.page(served.app, served.watch, hosts=["llm.example"])
    scope = {"type": "http", "method": "GET", "path": "/emoguard/", "query_string": b""}
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(page(scope | {"headers": [(b"host", b"llm.example")]}, None, send))
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("path", [LIVE, ANSWER])
@pytest.mark.parametrize("shown", [None, b"Bearer wrong", b"Basic secret"])
def test_data_want_the_key_and_files_do_not(served, path, shown):
    page = scripted.page(served.app, served.watch, api_key="secret")
    headers = [] if shown is None else [(b"authorization", shown)]
    method = "GET" if path == LIVE else "POST"
    assert call(page, b"", path=path, method=method, headers=headers).status == 401
    assert call(page, b"", path="/emoguard/", method="GET").status == 200
    assert served.app.asked == []


def test_the_viewers_key_is_the_apps(served):
    served.page = scripted.page(served.app, served.watch, api_key="secret")
    content = {"messages": [{"role": "user", "content": "Hi"}]}
    headers = [(b"authorization", b"Bearer secret")]
    events = served.events(ANSWER, content, headers=headers)
    assert events[-1][1]["error"] is None
    assert events[-1][1]["report"]["status"] == "scored"


def test_an_empty_key_is_refused(served):
    with pytest.raises(EmoGuardError, match="api_key is empty"):
        Page(served.app, served.watch, api_key=" ")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"Hi"', b"\xff", b"[" * 1000])
def test_a_body_that_is_no_completion_is_refused(served, content):
    answer = call(served.page, content, path=ANSWER)
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith("the body:")


def test_a_body_that_is_too_large_is_refused(served):
    assert call(served.page, b" " * (desk.LARGEST_BODY + 1), path=ANSWER).status == 413


def test_without_the_sink_the_page_says_so(served):
    app, watch, _ = scripted.watched()
    watch.guard.sinks = ()
    served.page = Page(EmoGuardMiddleware(app, watch), watch)
    events = dict(served.events(LIVE, query=OPERATOR, leave_after=3))
    assert events["about"]["keeps"] is None
    watch.detach()


def test_an_uncalibrated_model_and_a_disabled_watch_say_so(served):
    app, watch, traffic = scripted.watched(calibrated=False)
    uncalibrated = Served(app, watch, traffic)
    about = dict(uncalibrated.events(LIVE, leave_after=3))["about"]
    assert not about["calibrated"]
    assert about["labels"][0]["band"] is None
    assert any("not calibrated" in caution for caution in about["cautions"])
    assert about["steering"]["why"] == "steering needs a calibration of exactly this model file"
    spans, end = uncalibrated.say()
    assert len(spans[1][1]) == len(scripted.LABELS)
    assert end["report"]["status"] == "uncalibrated"
    served.page = Page(served.app, DisabledWatch(FakeModel()))
    about = dict(served.events(LIVE, query=OPERATOR, leave_after=3))["about"]
    assert about["disabled"]


def test_a_new_policy_changes_the_page(served, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\n")
    guard = served.watch.guard
    followed = Guard(guard.probe, guard.calibrations, path)
    served.watch.guard = followed
    served.page = scripted.page(served.app, served.watch)
    about = dict(served.events(LIVE, leave_after=3))["about"]
    assert about["steering"]["why"].endswith("(requests.plan)")
    path.write_text("version: 1\nrequests: {plan: true}\n")
    followed.refresh()
    assert dict(served.events(LIVE, leave_after=3))["about"]["steering"]["allowed"]


def test_the_policy_of_the_page_is_closed_by_default():
    assert not Policy().page.curves
