"""What goes wrong: the answer is right, or the error is one that OpenAI's clients can read."""

import asyncio
from collections import deque

import pytest
from emoguard_asgi import EmoGuardMiddleware

from emoguard import Policy
from emoguard.policy import RequestPolicy
from emoguard.testing import BlockedSink, FailingSink, ListSink
from tests.wire import (
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

ASKING = Policy(requests=RequestPolicy(plan=True, scores=True))


def error_of(answer):
    """Return an error after checking its shape."""
    error = answer.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert answer.headers["content-length"] == str(len(answer.body))
    return error


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("tokens", "wanted an object, got str"),
        (None, "wanted an object, got NoneType"),
        ([], "wanted an object, got list"),
        ({"score": "tokens"}, "did you mean scores?"),
        ({"scores": "all"}, "scores"),
        ({"plan": {"add": {"happy": "much"}}}, "plan"),
        ({"plan": {"add": {"happy": 0.2}}}, "max_dose_ratio 0.1"),
        ({"plan": {"add": {"joy": 0.05}}}, "joy"),
        ({"plan": {"add": {"happy": 0.05}, "layers": [0]}}, "layer 0 cannot be steered here"),
    ],
)
def test_a_malformed_object_or_a_plan_beyond_the_bound_is_refused(asked, named):
    app, watch, inner = wrapped(whole(), ASKING)
    answer = call(app, {"messages": [], "emoguard": asked})
    assert answer.status == 400
    error = error_of(answer)
    assert named in error["message"]
    assert (error["param"], error["code"]) == ("emoguard", "invalid_emoguard")
    assert (inner.bodies, list(watch.reports)) == ([], [])


def test_a_forbidden_plan_is_not_even_read():
    app, watch, _ = wrapped(whole(), Policy())
    answer = call(app, {"emoguard": {"plan": {"add": {"joy": 77}}}})
    assert answer.body == COMPLETION
    assert watch.reports[-1].denied == ("plan",)


def test_deep_nesting_is_refused():
    app, _, inner = wrapped(whole())
    answer = call(app, b'{"a":' * 100_000)
    assert answer.status == 400
    assert "nested" in error_of(answer)["message"]
    assert inner.bodies == []


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


class TestBrokenOff:
    """A notice that did not arrive is counted and due again."""

    @pytest.mark.parametrize("leave_after", [1, 3])
    def test_who_leaves_before_the_notice_is_told_again(self, leave_after):
        sink = ListSink()
        app, watch, _ = wrapped(stream(*STREAM), sinks=[sink])
        call(app, leave_after=leave_after)
        watch.guard.flush()
        (first,) = sink.reports
        assert first.notice.channel is None
        assert not watch.guard.ledger.waiting()

    def test_who_has_the_last_chunk_has_the_notice(self):
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
        assert not watch.guard.ledger.waiting()

    def test_only_what_was_broken_off_or_not_generated_is_abandoned(self):
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

    def test_a_server_that_calls_every_client_gone_in_the_end_abandons_nobody(self):
        app, watch, inner = wrapped(stream(*STREAM))
        call(app, leave_after=len(inner.messages))
        assert watch.abandoned == []

    def test_who_leaves_before_a_body_is_sent_does_not_have_it(self):
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


@pytest.mark.parametrize("make", [FailingSink, BlockedSink])
def test_a_sink_that_raises_or_blocks_is_not_noticed(make):
    sink = make()
    app, watch, _ = wrapped(stream(*STREAM), sinks=[sink])
    for _ in range(3):
        assert objects(call(app))[-1]["notice"]["kind"] == "ai"
    if make is BlockedSink:
        sink.release.set()
    watch.guard.close()


def test_whatever_breaks_in_here_leaves_the_answer_as_it_came(caplog):
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
