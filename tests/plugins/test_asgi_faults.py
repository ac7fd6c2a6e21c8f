"""What goes wrong: the answer is right, or the error is one that OpenAI's clients can read."""

import asyncio
import json
from collections import deque

import pytest
from emoguard_asgi import EmoGuardMiddleware
from emoguard_asgi.responder import LARGEST_BODY, LARGEST_EVENT

from emoguard import Policy
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.policy import RequestPolicy
from emoguard.testing import BlockedSink, FailingSink, ListSink
from tests.support.wire import (
    COMPLETION,
    NOTICED,
    STREAM,
    FakeWatch,
    InnerApp,
    body,
    call,
    event,
    objects,
    start,
    stream,
    whole,
    wrapped,
)

HI = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
ASKING = Policy(requests=RequestPolicy(plan=True, scores=True))


def error_of(answer):
    """Return an error after checking its shape."""
    error = answer.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert answer.headers["content-length"] == str(len(answer.body))
    return error


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ("tokens", "wanted an object, got str"),
        (False, "wanted an object, got bool"),
        ([], "wanted an object, got list"),
        ({"score": "tokens"}, "did you mean scores?"),
        ({"scores": "all"}, "scores"),
        ({"plan": {"add": {"happy": "much"}}}, "plan"),
        ({"plan": {"add": {"happy": 0.2}}}, "max_dose_ratio 0.1"),
        ({"plan": {"add": {"happy": 1e308, "sad": 1e308}}}, "max_dose_ratio 0.1"),
        ({"plan": {"add": {f"l{n}": 0.01 for n in range(100_000)}}}, "at most 10,000 values"),
        ({"plan": {"add": {"happy": 9 << 900}}}, "happy"),
        ({"plan": {"add": {"\ud83d": 0.01}}}, "keys are text"),
        ({"plan": {"add": {"x" * 1_000_000: 0.01}}}, "xxx"),
        ({"x" * 1_000_000: 0.01}, "unknown"),
        ({"plan": {"add": {"joy": 0.05}}}, "joy"),
        ({"plan": {"add": {"happy": 0.05}, "layers": [0]}}, "layer 0 cannot be steered here"),
    ],
)
def test_a_malformed_object_or_a_plan_beyond_the_bound_is_refused(fields, named):
    app, watch, inner = wrapped(whole(), ASKING)
    answer = call(app, {"messages": [], "emoguard": fields})
    assert answer.status == 400
    error = error_of(answer)
    assert named in error["message"]
    assert (error["param"], error["code"]) == ("emoguard", "invalid_emoguard")
    assert (inner.bodies, list(watch.reports)) == ([], [])


@pytest.mark.parametrize("fields", [None, {}, {"plan": None, "scores": None}])
def test_null_asks_for_nothing_and_the_app_never_sees_it(fields):
    app, watch, inner = wrapped(whole(), ASKING)
    plain, answer = call(app, {"messages": []}), call(app, {"messages": [], "emoguard": fields})
    assert (answer.status, answer.body) == (200, plain.body)
    assert json.loads(inner.bodies[-1]) == {"messages": []}
    assert watch.reports[-1].denied == ()


def test_a_forbidden_plan_is_not_even_read():
    app, watch, _ = wrapped(whole(), Policy())
    answer = call(app, {"emoguard": {"plan": {"add": {"joy": 77}}}})
    assert answer.body == COMPLETION
    assert watch.reports[-1].denied == ("plan",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"a":' * 100_000, "nested"),
        (b'{"emoguard": {}, "a":' + b'{"a":' * 200 + b"1" + b"}" * 201, "nested"),
        (b"[" + b"1," * 2_000_001 + b"1]", "values"),
        (b'{"a": %s}' % (b"9" * 5000), "digits"),
        (b'{"emoguard": {}, "a": %s}' % (b"9" * 301), "digits"),
        (b'{"emoguard": {}, "a": NaN}', "NaN"),
        (b'{"emoguard": {}, "a": -1e999}', "too large"),
        (b'{"emoguard": {}, "a": "\xed\xa0\xbd"}', "UTF-8"),
        ('{"emoguard": {}}'.encode("utf-16"), "UTF-8"),
        ('{"emoguard": {}}'.encode("utf-32-be"), "wanted JSON"),
    ],
)
def test_a_body_that_the_app_might_read_otherwise_is_refused(content, named):
    app, watch, inner = wrapped(whole())
    answer = call(app, content)
    assert answer.status == 400
    error = error_of(answer)
    assert named in error["message"]
    assert error["code"] == "invalid_json"
    assert (inner.bodies, list(watch.reports)) == ([], [])


@pytest.mark.parametrize(
    "content",
    [
        HI[:-1] + b', "temperature": NaN}',
        HI[:-1] + b', "a": 1e999}',
        HI[:-1] + b', "a": ' + b"[" * 300 + b"]" * 300 + b"}",
        HI[:-1] + b', "a": %s}' % (b"9" * 400),
        HI[:-1] + b', "a": "\\ud83d"}',
        HI[:-1] + b', "a": "\xed\xa0\xbd"}',
        HI.decode().encode("utf-8-sig"),
        HI.decode().encode("utf-16"),
    ],
)
def test_a_body_that_only_passes_for_json_reaches_the_app_unless_it_has_our_object(content):
    app, watch, inner = wrapped(whole())
    assert call(app, content).status == 200
    assert inner.bodies == [content]
    assert watch.requests[-1].user_text == "Hi"


def test_an_error_is_short_even_if_it_quotes_the_request():
    app, _, _ = wrapped(whole(), ASKING)
    answer = call(app, {"emoguard": {"plan": {"ablate": ["x" * 100_000] * 10}}})
    assert answer.status == 400
    assert len(error_of(answer)["message"]) <= 1000


@pytest.mark.parametrize("parts", [[b"x" * 101], [b"x" * 60, b"x" * 41, b"never read"]])
def test_a_body_that_is_too_large_is_refused_where_it_becomes_so(parts):
    app, _, inner = wrapped(whole(), max_body_bytes=100)
    answer = call(app, parts=parts)
    assert answer.status == 413
    assert error_of(answer)["code"] == "request_too_large"
    assert inner.bodies == []
    assert call(app, b"{}" + b" " * 98).status == 200


def test_a_packed_body_is_refused():
    app, _, inner = wrapped(whole())
    answer = call(app, b"\x1f\x8b", headers=[(b"content-encoding", b"gzip")])
    assert answer.status == 415
    assert error_of(answer)["code"] == "unsupported_encoding"
    assert inner.bodies == []
    assert call(app, b"{}", headers=[(b"content-encoding", b"Identity")]).status == 200


class TestBrokenOff:
    """A notice that did not arrive is counted and due again."""

    @pytest.mark.parametrize("leave_after", [1, 3])
    def test_a_client_that_leaves_before_the_notice_gets_it_again(self, leave_after):
        sink = ListSink()
        app, watch, _ = wrapped(stream(*STREAM), sinks=[sink])
        call(app, leave_after=leave_after)
        watch.guard.flush()
        (first,) = sink.reports
        assert first.notice.channel is None
        assert not watch.guard.outbox.waiting()

    def test_a_client_with_the_last_chunk_has_the_notice(self):
        sink = ListSink()
        app, watch, _ = wrapped(stream(*STREAM), sinks=[sink])
        call(app)
        watch.guard.flush()
        assert [report.notice.channel for report in sink.reports] == ["field"]

    @pytest.mark.parametrize("kept", [256, 1])
    @pytest.mark.parametrize(
        ("messages", "leave_after", "channel"),
        [(stream(*STREAM), None, "field"), (whole(), None, "field"), (stream(*STREAM), 1, None)],
        ids=["stream", "body", "left"],
    )
    def test_the_notices_of_one_call_arrive_or_are_lost_together(
        self, messages, leave_after, channel, kept
    ):
        sink = ListSink()
        app, watch, _ = wrapped(messages, sinks=[sink])
        watch.sequences, watch.reports = 3, deque(maxlen=kept)
        call(app, leave_after=leave_after)
        watch.guard.flush()
        request = watch.requests[-1]
        assert [report.id for report in sink.reports] == [f"{request.id}-{n}" for n in range(3)]
        assert [report.notice.channel for report in sink.reports] == [channel] * 3
        assert not watch.guard.outbox.waiting()

    def test_only_broken_off_or_ungenerated_answers_are_abandoned(self):
        app, watch, inner = wrapped(stream(*STREAM))
        call(app)
        inner.messages = whole()
        call(app)
        assert watch.abandoned == []
        inner.messages = stream(*STREAM)
        call(app, leave_after=1)
        inner.messages = stream(*STREAM)[:-1]
        call(app)
        assert watch.abandoned == [request.id for request in watch.requests[2:]]
        inner.messages = whole(b"{}", status=504)
        call(app)
        assert len(watch.abandoned) == 3

    def test_a_server_that_reports_every_client_gone_at_the_end_abandons_none(self):
        app, watch, inner = wrapped(stream(*STREAM))
        call(app, leave_after=len(inner.messages))
        assert watch.abandoned == []

    def test_a_client_that_leaves_before_the_body_does_not_have_it(self):
        sink = ListSink()
        watch = FakeWatch(sinks=[sink])

        async def slow(scope, receive, send):
            await receive()
            watch.generate()
            while (await receive())["type"] != "http.disconnect":
                pass
            for message in whole():
                await send(message)

        async def run():
            app, gone = EmoGuardMiddleware(slow, watch), asyncio.Event()

            async def receive():
                if not gone.is_set():
                    gone.set()
                    return {"type": "http.request", "body": b"{}", "more_body": False}
                return {"type": "http.disconnect"}

            async def send(message):
                pass

            scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
            await app(scope, receive, send)

        asyncio.run(run())
        watch.guard.flush()
        assert [report.notice.channel for report in sink.reports] == [None]

    @pytest.mark.parametrize("events", [STREAM[:2], (*STREAM[:2], STREAM[-1])])
    def test_a_stream_without_an_end_loses_the_notice(self, events):
        sink = ListSink()
        app, watch, _ = wrapped(stream(*events), sinks=[sink], early=True)
        assert call(app).body == b"".join(events)
        watch.guard.flush()
        assert [report.notice.channel for report in sink.reports] == [None]

    def test_an_app_that_breaks_is_heard(self):
        async def broken(scope, receive, send):
            await receive()
            await send(start())
            await send(body(event("{}"), more=True))
            raise RuntimeError("broken")

        watch = FakeWatch()
        with pytest.raises(RuntimeError, match="broken"):
            call(EmoGuardMiddleware(broken, watch))

    def test_a_client_that_leaves_while_sending_reaches_nobody(self):
        watch = FakeWatch()
        inner = InnerApp(watch, whole())
        sent = []

        async def run():
            async def receive():
                return {"type": "http.disconnect"}

            async def send(message):
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
            await EmoGuardMiddleware(inner, watch)(scope, receive, send)

        asyncio.run(run())
        assert (sent, inner.bodies) == ([], [])

    def test_no_task_is_left(self):
        app, _, _ = wrapped(stream(*STREAM))
        left = []

        async def counting(scope, receive, send):
            await app(scope, receive, send)
            left.append(len(asyncio.all_tasks()))

        for leave_after in (None, 1, 2):
            call(counting, leave_after=leave_after)
        assert left == [1, 1, 1]


SUFFIX = Policy(notices=NoticePolicy(profiles=("eu_art50",), channel="suffix"))
ODD = {
    "a message that is text": b'{"choices": [{"finish_reason": "stop", "message": "Hi"}]}',
    "text that is a number": b'{"choices": [{"finish_reason": "stop", "text": 7}]}',
    "a reason that is a list": b'{"choices": [{"finish_reason": [], "message": {"content": "a"}}]}',
    "a choice that is null": b'{"choices": [null, {"finish_reason": "stop", "text": "a"}]}',
    "choices that are an object": b'{"choices": {"finish_reason": "stop"}}',
    "deep nesting": b'{"finish_reason": "stop", "choices": ' + b"[" * 100_000,
    "a number without end": b'{"choices": [{"finish_reason": "stop", "index": %s}]}'
    % (b"9" * 5000),
    "not a number": b'{"choices": [{"finish_reason": "stop", "text": "a", "logprobs": NaN}]}',
    "half a letter": b'{"choices": [{"finish_reason": "stop", "text": "\\ud83d"}]}',
    "bytes that are no text": b'{"choices": [{"finish_reason": "stop", "text": "\xff"}]}',
    "nothing but the mark": b'"finish_reason": "stop"',
}


class TestApp:
    """An app whose answers are none of a completion API: they pass, whatever they are."""

    @pytest.mark.parametrize("policy", [NOTICED, SUFFIX], ids=["field", "suffix"])
    @pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
    def test_an_odd_answer_passes_or_has_the_object_in_addition(self, answer, policy):
        for messages in (whole(answer), stream(event("X").replace(b"X", answer))):
            app, watch, _ = wrapped(messages, policy)
            sent = call(app)
            assert sent.status == 200
            plain = b"".join(message.get("body", b"") for message in messages)
            if b'"emoguard"' in sent.body:
                assert watch.reports[-1].notice.text
            else:
                assert sent.body == plain

    def test_an_event_without_end_is_not_held(self):
        piece = b"x" * (LARGEST_EVENT // 4)
        pieces = [b"data: " + piece, *[piece] * 7, b"\n\n", STREAM[3]]
        app, _, _ = wrapped(stream(*pieces))
        parts = call(app).parts
        assert b"".join(parts) == b"".join(pieces)
        assert max(map(len, parts)) < 2 * LARGEST_EVENT

    def test_a_body_without_end_is_not_held(self):
        piece = b" " * (LARGEST_BODY // 4)
        messages = [start("application/json"), *[body(piece, more=True)] * 8, body(COMPLETION)]
        app, _, _ = wrapped(messages)
        parts = call(app).parts
        assert b"".join(parts) == piece * 8 + COMPLETION
        assert max(map(len, parts)) < 2 * LARGEST_BODY

    def test_a_stream_that_has_a_length_loses_it(self):
        raw = b"".join(STREAM)
        length = (b"Content-Length", b"%d" % len(raw))
        app, _, _ = wrapped([start("text/event-stream", length), body(raw)], early=True)
        answer = call(app)
        assert len(answer.body) > len(raw)
        assert {name.lower() for name in answer.headers} == {
            "date",
            "content-type",
            "x-emoguard-notice",
        }

    @pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
    def test_a_file_in_the_place_of_a_body_passes(self, kind):
        file = {"type": "http.response.pathsend", "path": "answer.json"}
        app, _, _ = wrapped([start(kind), file])
        answer = call(app)
        assert answer.sent[0]["headers"][:2] == start(kind)["headers"]
        assert answer.sent[1:] == [file]


@pytest.mark.parametrize("make", [FailingSink, BlockedSink])
def test_a_sink_that_raises_or_blocks_is_not_noticed(make):
    sink = make()
    app, watch, _ = wrapped(stream(*STREAM), sinks=[sink])
    for _ in range(3):
        assert objects(call(app))[-1]["notice"]["kind"] == "ai"
    if make is BlockedSink:
        sink.release.set()
    watch.guard.close()


def test_a_failure_here_leaves_the_answer_unchanged(caplog):
    app, watch, _ = wrapped(stream(*STREAM), NOTICED)
    watch.guard.deliver = watch.guard.lost = lambda *_: 1 / 0
    assert objects(call(app))[-1] is not None
    watch.reports = None
    watch.generate = lambda text: None
    assert call(app).body == b"".join(STREAM)
    assert "the answer leaves as it came" in caplog.text


def test_connections_that_are_no_request_pass():
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    app = EmoGuardMiddleware(inner, FakeWatch())
    for kind in ("lifespan", "websocket"):
        asyncio.run(app({"type": kind, "path": "/v1/completions"}, None, None))
    assert seen == ["lifespan", "websocket"]
