"""Hostile requests and odd answers through the middleware: an HTTP answer, and no 500 of ours.

The app's bytes are unchanged but for the object that is added; it gets the client's bytes unless
they held an `emoguard` object, which it never sees.
"""

import asyncio
import itertools
import json
import logging
import time
from collections import deque
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from emoguard_asgi import EmoGuardMiddleware, events
from hypothesis import given
from hypothesis import strategies as st

from emoguard import Policy, wire
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.policy import RequestPolicy
from tests.fuzz import limits
from tests.fuzz.mutations import LARGE, ODD, mutants
from tests.support.wire import (
    CHAT,
    COMPLETION,
    NOTICED,
    STREAM,
    Exchange,
    FakeWatch,
    InnerApp,
    body,
    call,
    chunk,
    start,
    whole,
)

pytestmark = pytest.mark.slow

CORPUS = sorted((Path(__file__).parent / "corpus" / "requests").iterdir())
OPEN = replace(
    NOTICED, requests=RequestPolicy(plan=True, scores=True, channel=True, conversation=True)
)
SUFFIX = replace(NOTICED, notices=NoticePolicy(profiles=("eu_art50",), channel="suffix"))
POLICIES = {"shut": Policy(), "open": OPEN, "suffix": SUFFIX}
SECRET = "s3cret"

ASKED = {
    "plan": {"add": {"happy": 0.05, "sad": -0.01}, "cap": {"sad": 0.9}, "layers": [1], "probe": ""},
    "scores": "tokens",
    "channel": "field",
    "conversation": "c",
}
REQUESTS = [
    json.dumps(each).encode()
    for each in (
        {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "emoguard": ASKED},
        {"prompt": ["Once", "Twice"], "max_tokens": 4, "temperature": 0.5, "emoguard": {}},
        {
            "messages": [
                {"role": "system", "content": "é ✓"},
                {"role": "user", "content": [{"type": "text", "text": "Are you human?"}]},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        },
    )
]
OURS = {400, 401, 413, 415, 503}
"""What the middleware itself answers here; nothing stalls."""


class Bench:
    """One app under the middleware, used again and again; what it saw last."""

    def __init__(self, policy, **options):
        self.watch = FakeWatch(policy)
        self.inner = InnerApp(self.watch, whole())
        self.app = EmoGuardMiddleware(self.inner, self.watch, **options)

    def send(self, sender, messages):
        """Let the app answer with these messages; return the exchange after checking its form."""
        self.inner.messages, self.inner.bodies = messages, []
        self.watch.reports = deque(maxlen=256)
        before = time.process_time()
        answer = sender(self.app)
        assert time.process_time() - before <= limits.SECONDS
        return self.check(answer, messages)

    def check(self, answer, messages):
        sent = answer.sent
        assert [message["type"] for message in sent[:1]] == ["http.response.start"]
        assert {message["type"] for message in sent[1:]} == {"http.response.body"}
        assert [message.get("more_body", False) for message in sent[1:]][-1] is False
        for name, value in sent[0]["headers"]:
            assert isinstance(name, bytes)
            assert isinstance(value, bytes)
        length = answer.headers.get("content-length")
        assert length is None or int(length) == len(answer.body)
        if self.inner.bodies:
            assert answer.status == messages[0]["status"]
            self._check_bytes(answer.body, b"".join(m.get("body", b"") for m in messages))
        else:
            assert answer.status in OURS
            error = answer.json["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert 0 < len(error["message"]) <= 1000
        return answer

    def _check_bytes(self, raw, app):
        """Check that nothing but our object and words stands beside the app's bytes."""
        if raw == app:
            return
        ids = {report.call for report in self.watch.reports}
        while (place := raw.find(b',"emoguard":')) >= 0:
            text = raw[place + 12 :].decode("utf-8", "surrogateescape")
            value, end = json.JSONDecoder().raw_decode(text)
            assert value["id"] in ids
            raw = raw[:place] + text[end:].encode("utf-8", "surrogateescape")
        if raw != app:
            words = json.dumps(f"\n\n{self.watch.reports[-1].notice.text}").encode()[1:-1]
            assert words in raw
            if raw.startswith(b"{"):  # a text that has become longer is written anew
                raw, app = (json.dumps(json.loads(each)) for each in (raw.replace(words, b""), app))
            else:
                cut = events.Events()
                kept = [each for each in cut.feed(raw) if words not in each]
                raw = b"".join(kept) + cut.rest()
            assert raw == app


@cache
def bench(policy="open", **options):
    return Bench(POLICIES[policy], **options)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Nothing may break and be caught: that would be logged."""
    with caplog.at_level(logging.WARNING, "emoguard"):
        yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def cut(data, places):
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(ends)]


PLACES = st.lists(st.integers(0, 1000), max_size=4)


def check_request(sent, policy="open", places=()):
    """Send a body; check that the app has it, or all but our object, or that it is refused."""
    site = bench(policy)
    site.send(lambda app: call(app, parts=cut(sent, places)), whole())
    if not site.inner.bodies:
        return
    (got,) = site.inner.bodies
    try:
        value = json.loads(sent)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and wire.KEY in value:
        del value[wire.KEY]
        assert json.loads(got) == value
    else:
        assert got == sent


@given(st.sampled_from(REQUESTS).flatmap(lambda seed: mutants(seed, "json")),
       st.sampled_from(list(POLICIES)), PLACES)  # fmt: skip
def test_a_mutant_of_a_request_is_refused_or_reaches_the_app(sent, policy, places):
    check_request(sent, policy, places)


@given(st.binary(max_size=200), PLACES)
def test_bytes_reach_the_app(sent, places):
    check_request(sent, places=places)


@pytest.mark.parametrize("policy", POLICIES)
def test_requests_that_once_broke_are_refused_or_reach_the_app(policy):
    for known in [*REQUESTS, *ODD, *(file.read_bytes() for file in CORPUS)]:
        check_request(known, policy)
        check_request(b'{"emoguard": ' + known + b"}", policy)
        check_request(b'{"emoguard": {"plan": {"add": {"happy": ' + known + b"}}}}", policy)


NAMES = st.sampled_from(
    [
        b"authorization", b"Authorization", b"content-length", b"content-encoding", b"content-type",
        b"transfer-encoding", b"accept-encoding", b"expect", b"x-emoguard-conversation", b"host",
        b"origin", b"connection", b"cookie", b"",
    ]
)  # fmt: skip
VALUES = st.binary(max_size=20) | st.sampled_from(
    [
        b"Bearer s3cret", b"bearer  s3cret", b"Bearer", b"Basic s3cret", b"Bearer s3cret\xa0", b"0",
        b"Bearer " + b"x" * 70_000, b"99999999999999999999", b"9" * 5000, b"-1", b"1e3", b"+1",
        "٣".encode(), b"\xb2", b"identity", b"gzip", b"gzip, identity", b"chunked", b"100-continue",
        "Größe ✓".encode(), b"x" * 2000, b"\x00", b"a\nb", b"\xed\xa0\xbd",
    ]
)  # fmt: skip
METHODS = st.sampled_from(["POST", "GET", "HEAD", "OPTIONS", "PUT", "post", "", "\ud800"])
PATHS = st.sampled_from(
    [CHAT, "/v1/completions", "/completions", "/v1/completions/", "/", "", "/\ud800", "/é"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), METHODS, PATHS, st.sampled_from(REQUESTS))
def test_any_headers_make_an_answer_and_none_but_the_key_opens(headers, method, path, sent):
    site = bench(api_key=SECRET, every_route=True)
    site.send(lambda app: call(app, sent, path=path, method=method, headers=headers), whole())
    has_body = method not in ("GET", "HEAD", "OPTIONS")
    if has_body and not any(SECRET.encode() in value for _, value in headers):
        assert site.inner.bodies == []


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["http.request", "http.request", "http.request", "x"])},
        optional={
            "body": st.sampled_from([b"", b"{", b"}", b'{"prompt": "Hi"}', b"x" * 300]),
            "more_body": st.booleans(),
        },
    )
    | st.just({"type": "http.disconnect"}),
    max_size=6,
)


@given(MESSAGES, st.booleans())
def test_a_request_ends_with_any_layer_in_front(messages, repeats):
    site = bench(max_body_bytes=250, body_seconds=0.02)
    sent = []

    async def run():
        waiting = deque(messages)

        async def receive():
            if not waiting:
                await asyncio.Event().wait()
            return waiting[0] if repeats and len(waiting) == 1 else waiting.popleft()

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
        async with asyncio.timeout(5):
            await site.app(scope, receive, send)

    site.inner.messages, site.inner.bodies = whole(), []
    asyncio.run(run())
    if sent:
        assert Exchange(sent).status in {200, 400, 408, 413}
    assert not site.watch.guard.outbox.waiting()


def events_of(data):
    """Return a stream whose events are the lines of `data`."""
    return b"".join(b"data: " + line + b"\n\n" for line in data.split(b"\n"))


CHUNKS = b"\n".join(each.encode() for each in (chunk("Hi"), chunk(finish="stop"), "[DONE]"))
ANSWERS = st.one_of(
    mutants(COMPLETION, "json").map(lambda data: ("application/json", data)),
    mutants(b"".join(STREAM), "bytes").map(lambda data: ("text/event-stream", data)),
    mutants(CHUNKS, "lines").map(lambda data: ("text/event-stream; a=b", events_of(data))),
)


@given(ANSWERS, st.sampled_from(list(POLICIES)), PLACES, st.sampled_from([200, 200, 200, 201, 500]))
def test_a_mutant_of_an_answer_passes(answer, policy, places, status):
    kind, data = answer
    pieces = [body(piece, more=True) for piece in cut(data, places)]
    messages = [start(kind, status=status), *pieces, body(b"")]
    bench(policy).send(lambda app: call(app, REQUESTS[2]), messages)


def size_of(config):
    return 2**24 if config.getoption("--hypothesis-profile") == "long" else 2**20


def patterns(config):
    return list(LARGE.values())[: None if size_of(config) > 2**20 else 3]


def filled(pattern, size):
    first, unit, last = pattern
    return first + unit * ((size - len(first) - len(last)) // len(unit)) + last


PLACES_OF_LARGE = {
    "all": (b"", b""),
    "messages": (b'{"messages":', b"}"),
    "content": (b'{"messages":[{"role":"user","content":', b"}]}"),
    "object": (b'{"emoguard":', b"}"),
    "plan": (b'{"emoguard":{"plan":', b"}}"),
    "doses": (b'{"emoguard":{"plan":{"add":', b"}}}"),
    "label": (b'{"emoguard":{"plan":{"add":{"', b'":0.1}}}}'),
    "labels": (b'{"emoguard":{"plan":{"ablate":', b"}}}"),
    "conversation": (b'{"emoguard":{"conversation":', b"}}"),
}


@pytest.mark.parametrize("place", PLACES_OF_LARGE)
def test_a_large_body_costs_at_most_5_seconds_and_512_mib(place, request):
    site = bench(max_body_bytes=2**24)
    before, after = PLACES_OF_LARGE[place]
    for pattern in patterns(request.config):
        data = before + filled(pattern, size_of(request.config) - 100) + after
        cost = limits.check_in_child(
            lambda data=data: site.send(lambda app: call(app, data), whole())
        )
        print(f"{place} {pattern[1][:20]}: {cost['seconds']:.1f} s {cost['bytes'] >> 20}")  # noqa: T201


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("whole_choice", [False, True])
def test_a_large_answer_costs_at_most_5_seconds_and_512_mib(kind, whole_choice, request):
    site = bench("suffix")
    for pattern in patterns(request.config):
        # Less than half of a request: larger ones are not held, and so not parsed.
        data = filled(pattern, size_of(request.config) * 7 // 16)
        if whole_choice:
            data = b'{"choices":[{"finish_reason":"stop","message":' + data + b"}]}"
        if kind == "text/event-stream":
            data = b"data: " + data + b"\n\n"
        pieces = [body(data[n : n + 50_000], more=True) for n in range(0, len(data), 50_000)]
        messages = [start(kind), *pieces, body(b"")]
        cost = limits.check_in_child(
            lambda messages=messages: site.send(lambda app: call(app, REQUESTS[2]), messages)
        )
        print(f"{kind} {pattern[1][:20]}: {cost['seconds']:.1f} s {cost['bytes'] >> 20}")  # noqa: T201
