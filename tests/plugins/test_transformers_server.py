"""`transformers serve` under the middleware, one by one and in a batch."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs transformers serve: the extra serve-transformers")
pytest.importorskip("openai", reason="needs transformers serve: the extra serve-transformers")

from emoguard_asgi import EmoGuardMiddleware
from emoguard_transformers import server

import emoguard
from emoguard import EmoGuardError, Guard, Policy
from emoguard.runtime.attach import find
from emoguard.testing import make_probe, measure_calibration
from tests.clients.serving import serving
from tests.support import models, tiny_folder

MODES = ("one by one", "batch")
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
ASKED = {"messages": [{"role": "user", "content": "How is the garden?"}]}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
POLICY = Policy.parse(
    {
        "steering": {"max_dose_ratio": 0.4},
        "requests": {"plan": True, "scores": True},
        "notices": {"profiles": ["eu_art50"]},
    }
)
FIXED = {"temperature": 0, "max_tokens": 12}


def opened(path: Any, mode: str) -> Any:
    small = {"num_blocks": 64, "max_batch_tokens": 64}
    batch = server.batching(**small) if mode == "batch" else None
    return server.open_app(path, device="cpu", dtype="float32", batch=batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny_folder.write(tmp_path_factory.mktemp("served") / "tiny")
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


class Site:
    """A server in this process, and what a client does to it."""

    def __init__(self, up: Any, watch: Any = None) -> None:
        self.up = up
        self.watch = watch

    def ask(self, path: str, body: Any, headers: Any = (), method: str = "POST") -> Any:
        """Return (status, body) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.up.port, timeout=60)
        with contextlib.closing(connection):
            head = {"content-type": "application/json"} | dict(headers)
            connection.request(method, path, json.dumps(body), head)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def text(self, path: str, **more: Any) -> str:
        """Return the text of an answer, streamed or whole."""
        body = (ASKED if path == CHAT else {"prompt": "The garden"}) | FIXED | more
        status, raw = self.ask(path, body)
        assert status == 200, raw
        return text_of(raw)

    def settle(self) -> None:
        """Wait until no request is being answered and no session is open."""
        deadline = time.monotonic() + 60
        while self.up.busy or self.watch.live() is not None:
            assert time.monotonic() < deadline, "a session was left open"
            time.sleep(0.01)


def chunks(raw: bytes) -> list[Any]:
    """Return the objects of an answer."""
    if not raw.startswith(b"data:"):
        return [json.loads(raw)]
    lines = [line for line in raw.decode().split("\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def text_of(raw: bytes) -> str:
    choices = [chunk["choices"][0] for chunk in chunks(raw)]
    texts = [choice.get("message") or choice.get("delta") or choice for choice in choices]
    return "".join(each.get("content") or each.get("text") or "" for each in texts)


def told_in(raw: bytes) -> Any:
    """Return the one `emoguard` object of an answer."""
    (results,) = [chunk["emoguard"] for chunk in chunks(raw) if "emoguard" in chunk]
    return results


@contextlib.contextmanager
def watched(path: Any, mode: str, policy: Policy = POLICY) -> Iterator[Site]:
    served = opened(path, mode)
    plugin, model = find(served.model)
    door = plugin.open_residuals(model, **served.options)
    probe = make_probe(door, ("happy", "sad"))
    guard = Guard(probe, [measure_calibration(door, probe)], policy)
    try:
        with (
            emoguard.attach(served.model, guard, **served.options) as watch,
            serving(EmoGuardMiddleware(served.app, watch)) as up,
        ):
            yield Site(up, watch)
    finally:
        served.stop()


@pytest.fixture(scope="module", params=MODES)
def site(request: pytest.FixtureRequest, folder: Any) -> Iterator[Site]:
    with watched(folder, request.param) as site:
        site.bare = opened(folder, request.param)  # type: ignore[attr-defined]
        try:
            yield site
        finally:
            site.bare.stop()  # its batch has a thread that would keep the process


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_the_text_is_that_of_the_bare_server(site: Any, path: str, stream: bool) -> None:
    with serving(site.bare.app) as up:
        plain = Site(up).text(path, stream=stream)
    assert plain
    assert site.text(path, stream=stream) == plain


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_the_object_holds_a_row_of_scores_for_each_token(
    site: Site, path: str, stream: bool
) -> None:
    body = ASKED if path == CHAT else {"prompt": "The garden"}
    own = {"emoguard": {"scores": "tokens"}, "stream": stream}
    _, raw = site.ask(path, body | FIXED | own)
    shown = told_in(raw)
    assert shown["notice"]["kind"] == "ai"
    used = [chunk["usage"] for chunk in chunks(raw) if chunk.get("usage")][-1]
    assert len(shown["tokens"]) == used["completion_tokens"] > 0
    site.settle()


def test_clients_with_plans_of_their_own_are_steered_apart(site: Site) -> None:
    plans: list[Any] = [None, {"add": {"happy": 0.3}}, {"add": {"sad": 0.1}}, None]
    # A stream leaves out the half of a letter that an answer may end in.
    alone = [
        site.text(CHAT, emoguard={"plan": plan}, stream=bool(number % 2))
        for number, plan in enumerate(plans)
    ]
    assert len(set(alone)) > 2
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        own = {"emoguard": {"plan": plans[number], "scores": "summary"}}
        _, answers[number] = site.ask(CHAT, ASKED | FIXED | own | {"stream": bool(number % 2)})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [text_of(answers[number]) for number in range(len(plans))] == alone
    steered = [told_in(answers[number])["steered"] for number in range(len(plans))]
    assert steered == [False, True, True, False]
    site.settle()


def test_a_client_that_leaves_a_stream_cancels_its_response(site: Site) -> None:
    raw = json.dumps(ASKED | {"temperature": 0, "max_tokens": 400, "stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", site.up.port), 60) as connection:
        connection.sendall(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
        got = b""
        while got.count(b"data: ") < 3:
            got += connection.recv(4096)
    site.settle()
    report = site.watch.reports[-1]
    assert report.finish == "cancelled"
    assert report.completion_tokens < 400


def test_a_plan_beyond_the_bound_is_refused_before_anything_is_generated(site: Site) -> None:
    before = len(site.watch.reports)
    status, raw = site.ask(CHAT, ASKED | {"emoguard": {"plan": {"add": {"happy": 0.9}}}})
    assert (status, json.loads(raw)["error"]["param"]) == (400, "emoguard")
    assert len(site.watch.reports) == before


def test_the_model_is_known_by_the_name_of_its_folder(site: Site, folder: Any) -> None:
    status, raw = site.ask("/v1/models", None, method="GET")
    assert (status, json.loads(raw)["data"][0]["id"]) == (200, "tiny")
    assert str(folder.parent) not in site.ask(CHAT, ASKED | FIXED)[1].decode()
    assert site.ask(CHAT, ASKED | FIXED | {"model": "tiny"})[0] == 200
    status, raw = site.ask(CHAT, ASKED | FIXED | {"model": "another/model"})
    assert (status, "pinned to 'tiny'" in raw.decode()) == (400, True)


@pytest.mark.parametrize("path", server.UNWATCHED)
def test_routes_that_cannot_be_watched_are_refused_in_a_sentence(site: Site, path: str) -> None:
    status, raw = site.ask(path, {"model": "tiny", "input": "x"})
    assert (status, json.loads(raw)["error"]["message"]) == (501, server.UNWATCHED[path])


def test_an_id_is_free_again_once_its_request_is_answered(site: Site) -> None:
    own = {"x-request-id": "again"}
    assert [site.ask(CHAT, ASKED | FIXED, own)[0] for _ in range(2)] == [200, 200]


def test_of_two_requests_under_one_id_the_second_is_refused() -> None:
    async def scenario() -> list[int]:
        going, free = asyncio.Event(), asyncio.Event()
        sent: list[int] = []

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            going.set()
            await free.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message: Any) -> None:
            sent.extend([message["status"]] if "status" in message else [])

        layer = server.OwnIds(app)
        scope = {"type": "http", "method": "POST", "headers": [(b"x-request-id", b"one")]}
        first = asyncio.create_task(layer(scope, None, send))
        await going.wait()
        await layer(scope, None, send)
        free.set()
        await first
        await layer(scope, None, send)
        return sent

    assert asyncio.run(scenario()) == [409, 200, 200]


def test_a_host_that_others_reach_wants_a_key(folder: Any) -> None:
    with pytest.raises(EmoGuardError, match="give an api_key"):
        server.open_app(folder, host="0.0.0.0")


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EmoGuardError, match="cannot be served") as caught:
        server.open_app(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.real
@pytest.mark.parametrize("mode", MODES)
def test_openai_python_talks_to_a_watched_model(mode: str) -> None:
    import openai

    path = models.hf_copy(models.smollm2_gguf())
    with watched(path, mode) as site:
        client = openai.OpenAI(base_url=f"{site.up.url}/v1", api_key="none", max_retries=0)
        fixed: Any = {**ASKED, "model": path.name, "temperature": 0, "max_tokens": 16}
        whole = client.chat.completions.create(**fixed)
        text = whole.choices[0].message.content
        assert text
        assert whole.model_extra["emoguard"]["notice"]["kind"] == "ai"
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**fixed, stream=True)
        ]
        assert "".join(pieces) == text
        own = {"emoguard": {"plan": {"add": {"happy": 0.3}}}}
        steered = client.chat.completions.create(**fixed, extra_body=own)
        assert steered.model_extra["emoguard"]["steered"]
        assert client.chat.completions.create(**fixed).choices[0].message.content == text
        site.settle()
        assert {report.status for report in site.watch.reports} == {"scored"}
