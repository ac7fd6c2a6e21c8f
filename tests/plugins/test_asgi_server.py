"""llama_cpp.server under the middleware, with a tiny random model: counts agree, nothing stays."""

import http.client
import json
import random
import socket
import threading
import time
from pathlib import Path
from types import MappingProxyType

import pytest

pytest.importorskip("fastapi", reason="needs llama_cpp.server: the extra serve brings it")

from emoguard_asgi import EmoGuardMiddleware
from emoguard_jsonl import AuditLog, Key
from emoguard_llamacpp import server
from emoguard_prometheus import PrometheusExporter

import emoguard
from emoguard import Guard, Policy
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.policy import RequestPolicy
from emoguard.runtime.attach import find
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import (
    AlarmingGuard,
    BlockedSink,
    FailingSink,
    ListSink,
    make_probe,
    measure_calibration,
)
from tests.clients.serving import serving
from tests.support import tiny_gguf

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
ALLOWED = RequestPolicy(plan=True, conversation=True)
WINDOW = 4
POLICY = Policy(
    alarms=AlarmPolicy(window_tokens=WINDOW),
    steering=SteeringPolicy(max_dose_ratio=0.2),
    requests=ALLOWED,
    notices=NoticePolicy(profiles=("eu_art50",), amplifying=("sad",)),
)
PLAN = {"add": {"happy": 0.05}}


class Rising(AlarmingGuard):
    """A guard in which `sad` rises over its threshold with the first full window."""

    levels = MappingProxyType({"sad": -1e6})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """llama_cpp.server's app around a tiny random model."""
    path = tiny_gguf.write(tmp_path_factory.mktemp("served") / "tiny.gguf", "llama")
    settings, model = server.read_model(str(path), n_ctx=1024, n_threads=1)
    settings.api_key = None
    served = server.open_app(settings, model)
    yield served
    served.model.close()


@pytest.fixture(scope="module")
def measured(served):
    """A probe for it and a calibration."""
    plugin, inner = find(served.model)
    door = plugin.open_residuals(inner)
    probe = make_probe(door, ("happy", "sad"), (1, 2))
    return probe, [measure_calibration(door, probe)]


class Site:
    """What a test asks: the server, its watch and its model."""

    def __init__(self, up, watch):
        self.up = up
        self.watch = watch

    def ask(self, path, body, headers=()):
        """Return (status, body) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.up.port, timeout=60)
        try:
            shown = {"content-type": "application/json"} | dict(headers)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, raw, shown)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def leave(self, path, body, events):
        """Send one request and leave after so many events of its stream; 0 is at once."""
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.up.port), 60) as connection:
            connection.sendall(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
            got = b""
            while got.count(b"data: ") < events and (more := connection.recv(4096)):
                got += more

    def settle(self):
        """Wait until no request is being answered; then nothing may be open."""
        deadline = time.monotonic() + 60
        while self.up.busy:
            assert time.monotonic() < deadline, "a request is still being answered"
            time.sleep(0.01)
        assert self.watch.live() is None, "a session was left open"
        assert not self.watch.guard.outbox.waiting(), "a notice was left on its way"
        assert self.watch.guard.flush()


@pytest.fixture
def site(served, measured):
    """Return a function that puts the server up under a policy, with these sinks."""
    stack = []

    def put(policy=POLICY, sinks=(), kind=Guard):
        guard = kind(*measured, policy, sinks)
        watch = emoguard.attach(served.model, guard)
        up = serving(EmoGuardMiddleware(served.app, watch))
        site = Site(up.__enter__(), watch)
        stack.append((up, watch, guard))
        return site

    yield put
    for up, watch, guard in stack:
        up.__exit__(None, None, None)
        watch.detach()
        guard.close()


def asking(chat, tokens, **more):
    """Return (path, body) of a request; an end mark that cannot be drawn makes lengths certain."""
    text = {"max_tokens": tokens, "logit_bias": {"2": -100}, **more}
    if chat:
        return CHAT, {"messages": [{"role": "user", "content": "Hi"}]} | text
    return PLAIN, {"prompt": "Once upon"} | text


def object_of(raw, *, stream):
    """Return the object in an answer; checks that a stream has it once, on its last chunk."""
    if not stream:
        return json.loads(raw).get("emoguard")
    lines = [line for line in raw.decode().split("\n") if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    data = [json.loads(line.removeprefix("data: ")).get("emoguard") for line in lines]
    assert not any(data[:-1])
    return data[-1]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_plan_may_steer_the_prompt(site, chat, stream):
    site = site()
    path, body = asking(chat, 8, stream=stream, emoguard={"plan": PLAN | {"prompt": True}})
    for _ in range(2):
        status, raw = site.ask(path, body)
        assert status == 200, raw
        assert object_of(raw, stream=stream)["steered"] is True
    site.settle()


def test_of_500_mixed_requests_metrics_and_audit_log_count_the_same(site, served, tmp_path):
    exporter = PrometheusExporter(
        emotions=["happy", "sad"], model="tiny random llama", profiles=["eu_art50"]
    )
    log = AuditLog(tmp_path / "audit.jsonl", Key(b"k" * 32))
    site = site(sinks=[exporter, log], kind=Rising)
    draw = random.Random(5)
    seen, refused, left = {}, 0, 0
    for number in range(500):
        stream, tokens = draw.random() < 0.5, draw.choice([2, 8])
        path, body = asking(draw.random() < 0.5, tokens, stream=stream)
        fate = draw.choices(["plain", "steered", "excess", "malformed", "left"], [4, 4, 1, 1, 2])[0]
        own = {"conversation": f"c{number % 50}"}
        if fate == "left":
            site.leave(path, body | {"stream": True, "max_tokens": 60}, draw.choice([0, 1, 2]))
            left += 1
            continue
        request = {
            "plain": own,
            "steered": own | {"plan": PLAN},
            "excess": {"plan": {"add": {"happy": 0.3}}},
            "malformed": {"plan": "happy"},
        }[fate]
        status, raw = site.ask(path, body | {"emoguard": request})
        if fate in ("excess", "malformed"):
            assert (status, json.loads(raw)["error"]["param"]) == (400, "emoguard")
            refused += 1
            continue
        assert status == 200
        actual = object_of(raw, stream=stream)
        if fate == "steered":
            assert (actual["steered"], actual["notice"] is None) == (True, False)
        if actual is not None:
            seen[actual["id"]] = actual
    site.settle()
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    noticed = [line for line in lines if line["notice"]]
    argument = {line["id"]: line["notice"] for line in noticed if line["notice"]["channel"]}
    lost = [line for line in noticed if not line["notice"]["channel"]]
    # Who left may have had everything on its way already: then it counts as given.
    assert seen.keys() <= argument.keys()
    assert len(argument) + len(lost) <= len(seen) + left
    assert len(lines) == len({line["id"] for line in lines}) <= 500 - refused
    assert len(lost) > 20
    for name in ("start", "steered", "amplified", "undelivered"):
        counted = sum(
            sample.value
            for family in exporter.registry.collect()
            for sample in family.samples
            if sample.name == "emoguard_notices_total" and sample.labels["reason"] == name
        )
        written = sum(name in notice["reasons"] for notice in argument.values())
        assert counted == written, name
        assert written or name == "undelivered"
    undelivered = exporter.registry.get_sample_value("emoguard_notices_undelivered_total")
    assert undelivered == len(lost)
    steered = {line["id"] for line in lines if line["receipt"] and line["receipt"]["applied"]}
    rose = {line["id"] for line in lines if line["scores"] and line["scores"]["sad"]["crossings"]}
    assert steered | rose <= {line["id"] for line in noticed}
    assert {i for i, actual in seen.items() if actual["steered"]} == steered
    shown = {i for i, actual in seen.items() if "amplified" in actual["notice"]["reasons"]}
    assert shown == rose & seen.keys()
    assert len(steered) > 100
    assert len(rose) > 50


def test_a_client_that_left_gets_the_notice_again(site):
    sink = ListSink()
    site = site(sinks=[sink])
    path, body = asking(True, 100, stream=True)
    named = {"emoguard": {"conversation": "c"}}
    site.leave(path, body | named, 2)
    site.settle()
    path, body = asking(True, 2, stream=True)
    for reasons in (["start", "undelivered"], None):
        _, raw = site.ask(path, body | named)
        actual = object_of(raw, stream=True)
        assert (actual and actual["notice"]["reasons"]) == reasons
    site.settle()
    first = sink.reports[0]
    assert (first.status, first.finish, first.notice.channel) == ("cancelled", "cancelled", None)


def test_with_everything_off_the_bytes_are_the_servers(site, served):
    site = site(Policy())
    requests = [
        asking(chat, 6, stream=stream, seed=1, temperature=0)
        for chat in (True, False)
        for stream in (True, False)
    ]
    answers = [site.ask(*each)[1] for each in requests]
    site.watch.detach()
    with serving(served.app) as up:
        bare = Site(up, site.watch)
        for request, answer in zip(requests, answers, strict=True):
            assert _timeless(answer) == _timeless(bare.ask(*request)[1])
            assert len(answer) > 100


def _timeless(raw):
    """Return an answer without what the server makes up anew each time: id and time."""
    parts = [line.removeprefix("data: ") for line in raw.decode().split("\n")]
    data = [json.loads(part) if part.startswith("{") else part for part in parts]
    for each in data:
        if isinstance(each, dict):
            each.update(id="", created=0)
    return data


@pytest.mark.parametrize("make", [FailingSink, BlockedSink])
def test_a_sink_that_raises_or_blocks_delays_no_answer(make, site):
    sink = make()
    site = site(sinks=[sink])
    for stream in (True, False):
        path, body = asking(True, 3, stream=stream)
        status, raw = site.ask(path, body)
        assert (status, object_of(raw, stream=stream)["notice"]["kind"]) == (200, "ai")
    if make is BlockedSink:
        sink.release.set()
    site.settle()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"conversation": 7}, "conversation"),
        ({"plan": {"add": {"happy": 0.21}}}, "max_dose_ratio"),
        ({"plan": {"add": {"joy": 0.1}}}, "joy"),
        ({"plan": {"add": {"happy": 0.1}, "layers": [4]}}, "4"),
        ([], "object"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_impossible_plan_is_refused_before_a_stream_begins(fields, part, stream, site):
    site = site()
    path, body = asking(True, 3, stream=stream)
    status, raw = site.ask(path, body | {"emoguard": fields})
    assert status == 400
    assert part in json.loads(raw)["error"]["message"]
    assert not site.watch.reports


def test_forbidden_wishes_never_reach_the_model(site):
    sink = ListSink()
    site = site(Policy(), sinks=[sink])
    path, body = asking(False, 3)
    wishes = {"plan": PLAN, "scores": "tokens", "channel": "suffix", "conversation": "c"}
    status, raw = site.ask(path, body | {"emoguard": wishes})
    assert (status, object_of(raw, stream=False)) == (200, None)
    site.settle()
    (report,) = sink.reports
    assert report.denied == ("plan", "scores", "channel", "conversation")
    assert (report.receipt, report.tokens, report.conversation) == (None, (), None)


def test_clients_that_leave_at_any_moment_leave_nothing(site):
    site = site()
    path, body = asking(True, 100, stream=True)
    site.ask(path, body | {"max_tokens": 2})
    draw = random.Random(3)
    for _ in range(30):
        site.leave(path, body, draw.choice([0, 1, 2, 4]))
    site.settle()
    status, raw = site.ask(path, body | {"max_tokens": 2})
    assert (status, object_of(raw, stream=True)["notice"]["kind"]) == (200, "ai")
    assert site.watch.live() is None


def test_several_clients_at_once_get_their_own_objects(site):
    site = site()
    results = []

    def client(tokens):
        for stream in (True, False):
            name = f"{tokens} {stream}"
            path, body = asking(True, tokens, stream=stream)
            _, raw = site.ask(path, body | {"emoguard": {"conversation": name}})
            results.append((name, object_of(raw, stream=stream)["id"]))

    threads = [threading.Thread(target=client, args=(n,)) for n in (2, 5, 9, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.settle()
    assert len(results) == 8
    assert sorted(results) == sorted((r.conversation, r.id) for r in site.watch.reports)


SECRET = "a word of this user alone"
SAID = [{"role": "user", "content": SECRET}]
PLAIN_TEXT = {"content-type": "text/plain"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_a_client_that_names_no_model_gets_its_name_and_not_where_it_lies(
    site, served, chat, stream
):
    up = site()
    path, body = asking(chat, 3, stream=stream)
    status, got = up.ask(path, body)
    assert status == 200
    assert b"tiny.gguf" in got
    for place in (served.model.model_path, str(Path(served.model.model_path).parent)):
        assert place.encode() not in got
    assert b"mine" in up.ask(path, body | {"model": "mine"})[1]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (({"messages": SAID}, PLAIN_TEXT), "send JSON with content-type: application/json"),
        (({"messages": SECRET},), "body.messages: "),
        (({"messages": SAID, "temperature": SECRET},), "body.temperature: "),
        ((SECRET.encode(),), "wanted JSON"),
        ((SECRET.encode(), PLAIN_TEXT), "wanted JSON"),
        ((SECRET.encode("utf-16"),), "wanted JSON"),
        (({"messages": SAID, "logit_bias": {SECRET: 1}},), "invalid literal"),
        (({"messages": [{"role": "user", "content": SECRET * 2000}]},), "maximum context length"),
    ],
)
def test_no_word_of_a_request_is_logged(site, capfd, caplog, request_, sentence):
    status, got = site().ask(CHAT, *request_)
    assert status in (400, 500)
    assert sentence in json.loads(got)["error"]["message"]
    printed = capfd.readouterr()
    for text in (printed.out, printed.err, caplog.text):
        assert SECRET not in text
        assert repr(SECRET.encode())[2:-1] not in text
