"""`vllm serve` with the middleware: one server in processes of its own, asked over HTTP."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from emoguard_vllm.serve import Middleware

from emoguard.probe.shipped import shipped_files
from tests.plugins.vllm.asking import SAD
from tests.plugins.vllm.engines import ENVIRONMENT, PROBE
from tests.support.models import ROOT, hf_copy, smollm2_gguf

pytestmark = pytest.mark.engines("serve")

TUTORIAL = (ROOT / "docs" / "vllm-tutorial.md").read_text(encoding="utf-8")


def blocks(language: str, begin: str) -> list[str]:
    """Return the tutorial's blocks that begin so."""
    found = re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)
    return [block for block in found if block.startswith(begin)]


(POLICY,) = map(yaml.safe_load, blocks("yaml", "# policy.yaml"))
(SERVE,) = blocks("bash", "vllm serve model ")
START_SECONDS = 540
CANCELLED = 'status="cancelled"'
HERE = ROOT / "tests" / "clients"
LIBRARIES = ("openai", "loop", "litellm", "langchain", "llamaindex")
CLIENTS = os.environ.get("EMOGUARD_CLIENTS_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
"""The libraries of clients want versions of their own: they are those of `make test`."""
QUESTION = [{"role": "user", "content": "Are you human?"}]


class Server:
    """A server that runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=180)

    def chat(self, **body: Any) -> Any:
        asked = {
            "model": "served",
            "messages": QUESTION,
            "max_tokens": 8,
            "temperature": 0,
            "ignore_eos": True,
        }
        return self.http.post("/v1/chat/completions", json=asked | body)

    def responses(self, wanted: float = 0, status: str = "") -> float:
        """Return how many responses the metrics count, once there are as many as wanted."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            lines = self.http.get("/metrics").text.splitlines()
            counted = [line for line in lines if line.startswith("emoguard_responses_total{")]
            found = sum(float(line.split()[-1]) for line in counted if status in line)
            if found >= wanted:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{found} responses, wanted {wanted}")


def start(folder: Path, policy: dict[str, Any], *more: str) -> tuple[Any, str, Path]:
    """Start a server; return its process, its address and its log."""
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    (folder / "probe.safetensors").write_bytes(shipped_files()[PROBE].read_bytes())
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(hf_copy(smollm2_gguf()))),
        *shlex.split(SERVE.replace("\\\n", ""))[3:],
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
        *("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "8"),
        *more,
    ]
    environment = os.environ | ENVIRONMENT
    environment |= {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
    return process, f"http://127.0.0.1:{port}", log


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Yield the events of a stream of the page, as (name, data), as they come."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    process, url, log = start(folder, POLICY)
    wait_for(process, url, log)
    running = Server(url)
    yield running
    running.http.close()
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def wait_for(process: Any, url: str, log: Path) -> None:
    """Wait until a server answers, or fail with the end of its log."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    process.kill()
    pytest.fail(log.read_text()[-4000:])


def test_a_chat_carries_what_is_to_be_told(server: Server) -> None:
    answer = server.chat().json()
    own = answer["emoguard"]
    assert own["notice"]["kind"] == "ai"
    assert own["steered"] is False
    assert answer["kv_transfer_params"] is None
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_requests_of_the_tutorial_are_answered(server: Server) -> None:
    *asking, metrics = blocks("bash", "curl")
    first, steered = (json.loads(shell(server, block))["emoguard"] for block in asking)
    assert first["notice"]["kind"] == "ai"
    assert first["scores"]
    assert (first["steered"], steered["steered"]) == (False, True)
    assert server.responses(2)  # reports may still be on their way
    assert "emoguard_responses_total{" in shell(server, metrics)


def shell(server: Server, script: str) -> str:
    script = script.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_object_of_a_body_steers_and_shows_scores(server: Server) -> None:
    own = server.chat(emoguard={"plan": SAD, "scores": "tokens"}).json()["emoguard"]
    assert own["steered"] is True
    assert len(own["tokens"]) == 8
    assert own["status"] == "scored"


def test_vllm_xargs_carry_the_same_object_as_text(server: Server) -> None:
    carried = {"emoguard": json.dumps({"plan": SAD, "scores": "tokens"})}
    answer = server.chat(vllm_xargs=carried).json()
    direct = server.chat(emoguard={"plan": SAD, "scores": "tokens"}).json()
    assert answer["emoguard"]["tokens"] == direct["emoguard"]["tokens"]
    assert answer["choices"][0]["message"] == direct["choices"][0]["message"]


def test_several_at_once_are_told_apart(server: Server) -> None:
    def ask(number: int) -> Any:
        plan = {"plan": SAD} if number % 2 else {}
        return server.chat(emoguard=plan | {"scores": "tokens"}).json()["emoguard"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert [own["steered"] for own in found] == [bool(n % 2) for n in range(8)]
    assert len({json.dumps(own["tokens"]) for own in found[::2]}) == 1
    assert len({json.dumps(own["tokens"]) for own in found[1::2]}) == 1


def test_two_choices_have_two_reports(server: Server) -> None:
    before = server.responses()
    answer = server.chat(n=2, temperature=0.8, emoguard={"scores": "summary"})
    assert len(answer.json()["choices"]) == 2
    assert answer.json()["emoguard"]["scores"]
    assert server.responses(before + 2) == before + 2


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_stream_ends_with_the_object(server: Server, path: str) -> None:
    asked = {"model": "served", "max_tokens": 8, "temperature": 0, "stream": True}
    asked |= {"messages": QUESTION} if path.startswith("chat") else {"prompt": "Are you human?"}
    with server.http.stream("POST", f"/v1/{path}", json=asked) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    own = [json.loads(line).get("emoguard") for line in lines[:-1]]
    assert [each["notice"]["kind"] for each in own if each] == ["ai"]


def test_a_client_that_leaves_is_reported_as_cancelled(server: Server) -> None:
    before = server.responses(status=CANCELLED)
    asked = {"model": "served", "messages": QUESTION, "max_tokens": 900, "stream": True}
    asked |= {"ignore_eos": True}
    with server.http.stream("POST", "/v1/chat/completions", json=asked) as it:
        for number, _ in enumerate(it.iter_lines()):
            if number == 4:
                break
    assert server.responses(before + 1, CANCELLED) == before + 1


@pytest.mark.parametrize(
    "body",
    [
        {"emoguard": {"plan": {"add": {"sad": 0.3}}}},
        {"emoguard": {"plan": {"add": {"no such label": 0.1}}}},
        {"emoguard": {"plann": {}}},
        {"emoguard": 3},
        {"emoguard": {"plan": {"add": {"sad": 0.3}}}, "stream": True},
        {"vllm_xargs": {"emoguard": '{"plan": {"add": {"sad": 0.3}}}'}},
        {"vllm_xargs": {"emoguard": "{"}},
    ],
)
def test_what_cannot_be_is_answered_with_400_and_a_sentence(server: Server, body: Any) -> None:
    answer = server.chat(**body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/inference/v1/generate", "/v1/responses", "/v1/messages"])
def test_routes_that_could_not_be_watched_are_refused(server: Server, path: str) -> None:
    parameters = {"max_tokens": 4, "extra_args": {"emoguard": {"plan": {"add": {"sad": 0.05}}}}}
    body = {"token_ids": [5, 6], "sampling_params": parameters, "input": "Hi", "max_tokens": 4}
    answer = server.http.post(path, json=body | {"model": "served", "messages": QUESTION})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_watched")


def test_metrics_stand_beside_those_of_vllm(server: Server) -> None:
    server.chat(emoguard={"plan": SAD})
    end = time.monotonic() + 30
    while time.monotonic() < end:
        text = server.http.get("/metrics").text
        if "emoguard_responses_total{" in text:
            break
        time.sleep(0.2)
    assert "emoguard_responses_total{" in text
    assert "emoguard_build_info{" in text
    assert 'backend="vllm"' in text
    assert "vllm:generation_tokens_total{" in text


def test_the_page_shows_the_answer_with_the_reading_of_each_token(server: Server) -> None:
    assert "<html" in server.http.get("/emoguard/").text
    asked = {"messages": QUESTION, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    plan = {"emoguard": {"plan": SAD}}
    with server.http.stream("POST", "/emoguard/answer", json=asked | plan) as answer:
        shown = list(events(answer))
    spans = [span for name, data in shown if name == "frame" for span in data["spans"]]
    name, end = shown[-1]
    direct = server.chat(emoguard={"plan": SAD, "scores": "tokens"}).json()
    read = [span[1] for span in spans if len(span) > 1]
    assert (name, end["error"]) == ("end", None)
    assert "".join(span[0] for span in spans) == direct["choices"][0]["message"]["content"]
    assert read == [pytest.approx(token["z"], abs=1e-3) for token in direct["emoguard"]["tokens"]]
    assert end["report"]["receipt"]["applied"] > 0


def test_the_page_shows_recent_traffic(server: Server) -> None:
    server.chat()
    with server.http.stream("GET", "/emoguard/live?view=operator") as answer:
        known = dict(itertools.islice(events(answer), 3))
    assert known["about"]["chat"]
    assert known["responses"]


def test_keys_are_the_servers_and_an_open_page_does_not_keep_it(tmp_path: Path) -> None:
    process, url, log = start(tmp_path, POLICY, "--api-key", "first", "second")
    wait_for(process, url, log)
    places = ("/v1/chat/completions", "/emoguard/answer")
    for key, status in (("first", 400), ("second", 400), ("third", 401)):
        bearer = {"authorization": f"Bearer {key}"}
        answers = [httpx.post(url + place, headers=bearer, content="{") for place in places]
        assert [answer.status_code for answer in answers] == [status, status], key
    bearer = {"authorization": "Bearer second"}
    with httpx.stream("GET", f"{url}/emoguard/live", headers=bearer, timeout=60) as answer:
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        names = [name for name, _ in events(answer)]
    assert (names[0], names[-1]) == ("about", "bye")
    assert process.wait(60) == 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_clients_read_what_the_model_said(server: Server, library: str) -> None:
    if not Path(CLIENTS).exists():
        pytest.skip(
            "needs the client libraries of make test: EMOGUARD_CLIENTS_PYTHON names a python"
        )
    command = [CLIENTS, str(HERE / "ways.py"), library]
    done = subprocess.run(
        [*command, f"{server.url}/v1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=HERE,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for each in map(json.loads, done.stdout.splitlines()):
        assert each["text"] == plain(server, each["way"]), each["way"]


def plain(server: Server, way: str) -> str:
    """Return the text of the answer that a way of a client got, read without a client."""
    asked = {"model": "served", "max_tokens": 24, "temperature": 0}
    if way == "loop plain":
        answer = server.http.post("/v1/completions", json=asked | {"prompt": way}).json()
        return answer["choices"][0]["text"]
    chat = asked | {"messages": [{"role": "user", "content": way}]}
    answer = server.http.post("/v1/chat/completions", json=chat).json()
    return answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("policy", "more", "said"),
    [
        ({"steering": {"plan": {"add": {"no such label": 0.1}}}}, (), "no such label"),
        ({}, ("--api-server-count", "2"), "several API servers"),
    ],
)
def test_what_cannot_be_served_ends_the_server_with_a_sentence(
    tmp_path: Path, policy: Any, more: tuple[str, ...], said: str
) -> None:
    process, _, log = start(tmp_path, policy, *more)
    assert process.wait(START_SECONDS) != 0
    assert said in log.read_text()


def test_an_unexpected_error_at_attach_ends_the_server_too(caplog: Any) -> None:
    async def app(*_: Any) -> None:
        raise AssertionError("the server's own life began")

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "lifespan", "app": SimpleNamespace(state=SimpleNamespace())}
    asyncio.run(Middleware(app)(scope, receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "engine_client" in sent[0]["message"]
    assert "could not be attached" in caplog.text
