"""Who may send a body, how large it may be and how long it may take; layers of others in front."""

import asyncio
import json
import tracemalloc

import pytest
from emoguard_asgi import EmoGuardMiddleware
from emoguard_asgi.gate import FULL_BODIES

from emoguard import EmoGuardError, Policy
from emoguard.policy.policy import RequestPolicy
from tests.support.wire import (
    CHAT,
    COMPLETION,
    PLAIN,
    STREAM,
    Exchange,
    call,
    stream,
    whole,
    wrapped,
)

ASKING = Policy(requests=RequestPolicy(plan=True, scores=True))
UNKNOWN = json.dumps({"emoguard": {"plan": {"add": {"joy": 0.05}}}}).encode()
BEARER = [(b"authorization", b"Bearer secret")]
DISCONNECT = {"type": "http.disconnect"}


def part(content, *, more=True):
    return {"type": "http.request", "body": content, "more_body": more}


def again_and_again(message):
    """Return a `receive` that never waits."""

    async def receive():
        return message

    return receive


async def never():
    await asyncio.Event().wait()


def scope_of(path=CHAT, method="POST", headers=()):
    return {"type": "http", "method": method, "path": path, "headers": list(headers)}


def exchange(app, receive, seconds=5, **scope):
    """Send one request whose body is what `receive` returns; it must be over in time."""
    sent = []

    async def send(message):
        sent.append(message)

    async def run():
        async with asyncio.timeout(seconds):
            await app(scope_of(**scope), receive, send)

    asyncio.run(run())
    return Exchange(sent)


def refused(answer):
    """Return (status, code) of an error in OpenAI's shape."""
    error = answer.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.headers["content-length"] == str(len(answer.body))
    return answer.status, error["code"]


class TestKey:
    """Without the server's key no byte of a body is read, and the app is not asked."""

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"authorization", b"Bearer wrong")],
            [(b"authorization", b"Basic secret")],
            [(b"authorization", b"secret")],
            [(b"authorization", b"Bearer")],
            [(b"authorization", b"Bearer secret\xff")],
            [(b"authorization", b"Bearer wrong"), *BEARER],
            [(b"x-api-key", b"secret")],
            [(b"content-encoding", b"gzip")],
            [(b"content-length", b"99999999999999")],
            [(b"content-length", b"-1")],
            [(b"transfer-encoding", b"chunked"), (b"expect", b"100-continue")],
        ],
    )
    @pytest.mark.parametrize("path", [CHAT, PLAIN, "/v1/engines/copilot-codex/completions"])
    def test_every_request_without_the_key_is_refused_unread(self, path, headers):
        async def receive():
            raise AssertionError("the body was asked for")

        app, watch, inner = wrapped(whole(), ASKING, api_key="secret")
        answer = exchange(app, receive, path=path, headers=headers)
        assert refused(answer) == (401, "invalid_api_key")
        assert (inner.bodies, list(watch.reports)) == ([], [])

    @pytest.mark.parametrize("content", [b"{", b"", UNKNOWN, b"x" * 1000])
    def test_no_body_makes_another_error_of_it(self, content):
        app, _, inner = wrapped(whole(), ASKING, api_key="secret", max_body_bytes=100)
        assert refused(call(app, content)) == (401, "invalid_api_key")
        assert inner.bodies == []

    @pytest.mark.parametrize("value", [b"Bearer secret", b"bearer secret", b"BEARER  secret "])
    def test_the_right_one_is_read(self, value):
        app, _, _ = wrapped(whole(), ASKING, api_key="secret")
        answer = call(app, UNKNOWN, headers=[(b"authorization", value)])
        assert refused(answer) == (400, "invalid_emoguard")

    def test_each_of_several_is_right(self):
        app, _, _ = wrapped(whole(), api_key=["first", "second"])
        for key, status in ((b"first", 200), (b"second", 200), (b"third", 401), (b"", 401)):
            assert call(app, headers=[(b"authorization", b"Bearer " + key)]).status == status
        assert call(app).status == 401
        with pytest.raises(EmoGuardError, match="the api_key is empty"):
            wrapped(whole(), api_key=["first", ""])

    def test_a_key_may_have_any_letters(self):
        app, _, _ = wrapped(whole(), api_key="Schlüssel\udc80")
        for value, status in (("Schlüssel".encode("latin-1"), 401), (b"\xff", 401)):
            assert call(app, headers=[(b"authorization", b"Bearer " + value)]).status == status
        app, _, _ = wrapped(whole(), api_key="Schlüssel")
        value = "Bearer Schlüssel".encode("latin-1")
        assert call(app, headers=[(b"authorization", value)]).status == 200

    @pytest.mark.parametrize("key", ["", " ", "\n"])
    def test_an_empty_one_opens_nothing(self, key):
        with pytest.raises(EmoGuardError, match="the api_key is empty"):
            wrapped(whole(), api_key=key)

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    def test_requests_without_a_body_are_for_the_app(self, method):
        app, _, inner = wrapped(whole(), api_key="secret", every_route=True)
        assert call(app, method=method).body == COMPLETION
        assert len(inner.bodies) == 1


class TestEveryRoute:
    """A server's other routes: their bodies are held to the key and the limits, and unchanged."""

    def test_they_are_for_the_app_unless_asked(self):
        app, _, inner = wrapped(whole(), api_key="secret", max_body_bytes=9)
        call(app, UNKNOWN, path="/v1/embeddings")
        assert inner.bodies == [UNKNOWN]

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "post"])
    def test_without_the_key_they_are_refused(self, method):
        app, _, inner = wrapped(whole(), api_key="secret", every_route=True)
        answer = call(app, UNKNOWN, path="/v1/embeddings", method=method)
        assert refused(answer) == (401, "invalid_api_key")
        assert inner.bodies == []

    def test_with_the_key_the_app_has_every_byte(self):
        app, watch, inner = wrapped(whole(), api_key="secret", every_route=True)
        headers = [*BEARER, (b"content-encoding", b"gzip"), (b"accept-encoding", b"gzip")]
        answer = call(app, parts=[b"\x1f", b"\x8b"], path="/v1/embeddings", headers=headers)
        assert answer.body == COMPLETION
        assert inner.bodies == [b"\x1f\x8b"]
        assert inner.scopes[0]["headers"][1:] == headers
        assert watch.requests[-1].carrier == "process"

    def test_a_body_too_large_is_refused(self):
        app, _, inner = wrapped(whole(), every_route=True, max_body_bytes=9)
        answer = call(app, UNKNOWN, path="/extras/tokenize")
        assert refused(answer) == (413, "request_too_large")
        assert inner.bodies == []


class TestSize:
    @pytest.mark.parametrize("length", [b"101", b"00101", b"9" * 5000])
    def test_a_body_that_is_announced_too_large_is_not_read(self, length):
        app, _, _ = wrapped(whole(), max_body_bytes=100)
        answer = exchange(app, never, headers=[(b"content-length", length)])
        assert refused(answer) == (413, "request_too_large")

    @pytest.mark.parametrize("length", [b"0", b"1", b"-5", b"\xb2", b"x", b""])
    def test_no_announcement_lets_more_in(self, length):
        app, _, inner = wrapped(whole(), max_body_bytes=100)
        headers = [(b"content-length", length)]
        assert call(app, b"x" * 101, headers=headers).status == 413
        assert call(app, b"x" * 100, headers=headers).status == 200
        assert inner.bodies == [b"x" * 100]
        assert (b"content-length", b"100") in inner.scopes[-1]["headers"]

    @pytest.mark.parametrize("limits", [{"max_body_bytes": 0}, {"body_seconds": -1}])
    def test_limits_are_positive(self, limits):
        with pytest.raises(EmoGuardError, match="positive"):
            wrapped(whole(), **limits)

    def test_a_body_in_many_parts_takes_no_more_memory_than_in_one(self):
        app, _, inner = wrapped(whole(), Policy())
        call(app)
        left = 30_000

        async def receive():
            nonlocal left
            left -= 1
            return part(b"x%d" % (left % 10), more=left > 0)

        tracemalloc.start()
        try:
            exchange(app, receive, 60)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(inner.bodies[-1]) == 60_000
        assert peak < 500_000


class TestRoom:
    """All bodies whose requests are not answered yet are bounded together."""

    def test_one_body_too_many_is_refused_until_others_are_answered(self):
        full, answering, held = asyncio.Event(), asyncio.Event(), []

        async def app(scope, receive, send):
            held.append(await receive())
            if len(held) == FULL_BODIES:
                full.set()
            await answering.wait()
            for message in whole():
                await send(message)

        _, watch, _ = wrapped(whole())
        guarded = EmoGuardMiddleware(app, watch, max_body_bytes=100)
        sent = []

        async def ask(size):
            answer = []

            async def send(message):
                answer.append(message)

            message = [part(b"x" * size, more=False)]

            async def receive():
                return message.pop() if message else await never()

            await guarded(scope_of(), receive, send)
            sent.append(Exchange(answer).status)

        async def run():
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                for _ in range(FULL_BODIES - 1):
                    group.create_task(ask(100))
                group.create_task(ask(99))
                await full.wait()
                await ask(2)
                assert sent == [503]
                group.create_task(ask(1))
                answering.set()
            await asyncio.gather(*(ask(100) for _ in range(FULL_BODIES)))

        asyncio.run(run())
        assert sent == [503] + [200] * (2 * FULL_BODIES + 1)

    def test_it_is_given_back_however_a_request_ends(self):
        app, _, inner = wrapped(whole(), max_body_bytes=100, body_seconds=0.05)

        def ends():
            yield exchange(app, again_and_again(part(b"x" * 60)))  # too large
            bodies = iter([part(b"x" * 60), DISCONNECT])

            async def leaves():
                return next(bodies)

            yield exchange(app, leaves)
            bodies = iter([part(b"x" * 60)])

            async def stalls():
                return next(bodies, None) or await never()

            yield exchange(app, stalls)
            yield call(app, b'{"emoguard": 7}' + b" " * 60)

        for _ in range(2 * FULL_BODIES):
            for _ in ends():
                pass
        assert call(app, b"x" * 100).status == 200
        assert inner.bodies == [b"x" * 100]

    def test_a_server_that_is_full_says_when_to_come_back(self):
        app, _, _ = wrapped(whole(), max_body_bytes=100)
        app._gate.take(100, 0)
        app._gate._free = 0
        answer = call(app, b"x")
        assert refused(answer) == (503, "server_busy")
        assert answer.headers["retry-after"] == "1"


class TestTime:
    @pytest.mark.parametrize("first", [None, b"", b"{"])
    def test_a_body_that_stalls_is_given_up(self, first):
        messages = [] if first is None else [part(first)]

        async def receive():
            return messages.pop() if messages else await never()

        app, _, inner = wrapped(whole(), body_seconds=0.05)
        assert refused(exchange(app, receive)) == (408, "request_timeout")
        assert inner.bodies == []

    @pytest.mark.parametrize("content", [b"", b"x"])
    def test_a_body_without_end_is_given_up_and_others_are_served_meanwhile(self, content):
        app, _, _ = wrapped(whole(), body_seconds=0.3)
        turns = 0

        async def counting():
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        async def beside(scope, receive, send):
            task = asyncio.create_task(counting())
            await app(scope, receive, send)
            task.cancel()

        answer = exchange(beside, again_and_again(part(content)))
        assert refused(answer) == (408, "request_timeout")
        assert turns > 3


class TestLayersInFront:
    """Middleware of others that reads the body first, and what it hands on for `receive`."""

    BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()

    @pytest.mark.parametrize("messages", [stream(*STREAM), whole()], ids=["stream", "body"])
    @pytest.mark.parametrize("more", [{"more_body": False}, {}], ids=["final", "bare"])
    def test_one_that_replays_the_body_for_ever_changes_nothing(self, messages, more):
        app, watch, inner = wrapped(messages)
        replay = again_and_again({"type": "http.request", "body": self.BODY, **more})
        answer = exchange(app, replay)
        assert inner.bodies == [self.BODY]
        assert b'"emoguard"' in answer.body
        assert not watch.guard.outbox.waiting()

    def test_one_that_has_read_the_body_and_replays_nothing_is_given_up(self):
        app, _, _ = wrapped(whole(), body_seconds=0.05)
        assert exchange(app, never).status == 408

    def test_a_disconnect_at_once_and_for_ever_reaches_nobody(self):
        app, watch, inner = wrapped(whole())
        assert exchange(app, again_and_again(DISCONNECT)).sent == []
        assert (inner.bodies, list(watch.reports)) == ([], [])

    def test_one_that_raises_where_the_body_is_due_is_heard(self):
        async def broken():
            raise RuntimeError("broken")

        app, _, _ = wrapped(whole())
        with pytest.raises(RuntimeError, match="broken"):
            exchange(app, broken)

    def test_one_that_raises_after_the_body_costs_no_answer(self, caplog):
        messages = [part(self.BODY, more=False)]

        async def receive():
            return messages.pop()

        app, _, _ = wrapped(stream(*STREAM))
        assert b'"emoguard"' in exchange(app, receive).body
        assert "is not known" in caplog.text

    def test_an_app_that_waits_for_the_disconnect_does_not_spin(self):
        async def listening(scope, receive, send):
            async def listen():
                while (await receive())["type"] != "http.disconnect":
                    pass

            await receive()
            task = asyncio.create_task(listen())
            for message in whole():
                await send(message)
                await asyncio.sleep(0.01)
            task.cancel()

        _, watch, _ = wrapped(whole())
        app = EmoGuardMiddleware(listening, watch)
        replay = again_and_again({"type": "http.request", "body": self.BODY})
        assert exchange(app, replay).body == COMPLETION

    @pytest.mark.parametrize("place", ["in front", "behind", "both"])
    @pytest.mark.parametrize("messages", [stream(*STREAM), whole()], ids=["stream", "body"])
    def test_starlettes_middleware_changes_nothing(self, messages, place):
        pytest.importorskip("starlette")
        from starlette.middleware.base import BaseHTTPMiddleware

        async def logging(request, call_next):
            assert await request.body() == self.BODY
            return await call_next(request)

        plain, watch, inner = wrapped(messages)
        app = inner if place == "in front" else BaseHTTPMiddleware(inner, logging)
        app = EmoGuardMiddleware(app, watch)
        app = app if place == "behind" else BaseHTTPMiddleware(app, logging)
        answer = call(app, self.BODY)
        assert inner.bodies == [self.BODY]
        wanted = call(plain, self.BODY)
        assert answer.status == 200
        assert _objects_replaced(answer.body) == _objects_replaced(wanted.body)


def _objects_replaced(raw):
    """Return the bytes of an answer, without what differs between two generations."""
    place = raw.index(b',"emoguard":')
    value, end = json.JSONDecoder().raw_decode(raw[place + 12 :].decode())
    assert value["notice"]["kind"] == "ai"
    return raw[:place] + raw[place + 12 :].decode()[end:].encode()
