"""`emoguard serve`: what it refuses, what it serves, and how it ends."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from emoguard.cli import main
from tests.emoguard.cli.test_run import save_probe
from tests.support import tiny_folder, tiny_gguf

pytest.importorskip("llama_cpp")
pytest.importorskip("fastapi", reason="needs llama_cpp.server: the extra serve brings it")

KEY = "the key of this test"
POLICY = """
version: 1
notices: {profiles: [eu_art50]}
requests: {plan: true, scores: true}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model, a probe for it and a policy."""
    folder = tmp_path_factory.mktemp("serve")
    model = tiny_gguf.load(tiny_gguf.write(folder / "tiny.gguf", "llama"))
    save_probe(folder / "p.safetensors", model)
    model.close()
    (folder / "policy.yaml").write_text(POLICY)
    return folder


@pytest.fixture
def config(folder, tmp_path):
    """Return a function that writes a config file of llama_cpp.server with these changes."""

    def write(name="config.json", **changes):
        model = {"model": str(folder / "tiny.gguf"), "n_threads": 1, "verbose": False}
        result = {"host": "127.0.0.1", "models": [model]} | changes
        path = tmp_path / name
        path.write_text(json.dumps(result))
        return str(path)

    return write


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Running:
    """An `emoguard serve` in a process of its own."""

    def __init__(self, process, port, metrics):
        self.process = process
        self.port = port
        self.metrics = metrics

    def ask(self, path, body=None, headers=(), port=None, method=None):
        """Return (status, headers, body) of one request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port or self.port}{path}",
            data,
            {"content-type": "application/json"} | dict(headers),
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def stop(self, number=signal.SIGTERM, timeout=30):
        """Send a signal; return the exit code and the seconds until it came."""
        start = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout), time.monotonic() - start


@contextlib.contextmanager
def serving(folder, *arguments, **environment):
    """Run the command on a free port until the block ends; yields what runs."""
    metrics = free_port()
    code = "import sys; from emoguard.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--probe", str(folder / "p.safetensors")]
    command += ["--port", "0", "--metrics-port", str(metrics)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *arguments],
            stderr=log,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
        try:
            yield Running(process, listening(process, log), metrics)
        finally:
            process.kill()
            process.wait()


def listening(process, log):
    """Return the port that the server says it listens on."""
    while process.poll() is None:
        log.seek(0)
        match = re.search(r"running on https?://[^ ]+:(\d+) ", log.read())
        if match:
            return int(match[1])
        time.sleep(0.05)
    log.seek(0)
    raise AssertionError(log.read())


def refused(capfd, *arguments):
    """Return what the command says when it refuses."""
    assert main(["serve", *arguments]) == 1
    return capfd.readouterr().err


class TestRefused:
    @pytest.mark.parametrize("arguments", [(), ("--model", "m", "--config", "c")])
    def test_anything_but_one_of_model_and_config(self, arguments, capfd):
        assert main(["serve", *arguments]) == 2
        assert "one of --model and --config" in capfd.readouterr().err

    def test_a_model_that_is_not_there(self, capfd):
        assert "there is no model at nowhere.gguf" in refused(capfd, "--model", "nowhere.gguf")

    def test_a_transformers_folder_that_cannot_be_opened(self, tmp_path, capfd):
        pytest.importorskip("openai", reason="needs transformers serve")
        (tmp_path / "config.json").write_text("{}")
        error = refused(capfd, "--model", str(tmp_path))
        assert f"{tmp_path} cannot be served: " in error
        assert error.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--threads", "2"), "--threads: not for a Transformers folder"),
            (("--cb-num-blocks", "9"), "--cb-num-blocks: only with --continuous-batching"),
        ],
    )
    def test_options_that_a_folder_does_not_take(self, arguments, sentence, tmp_path, capfd):
        (tmp_path / "config.json").write_text("{}")
        assert main(["serve", "--model", str(tmp_path), *arguments]) == 2
        assert sentence in capfd.readouterr().err

    def test_options_that_only_a_folder_takes(self, folder, capfd):
        model = str(folder / "tiny.gguf")
        assert main(["serve", "--model", model, "--continuous-batching", "--dtype", "float16"]) == 2
        shown = capfd.readouterr().err
        assert "--continuous-batching, --dtype: not for a GGUF file" in shown

    def test_a_file_that_is_no_model(self, tmp_path, capfd):
        (tmp_path / "x.gguf").write_bytes(b"no model")
        assert "is no model: give a GGUF file" in refused(
            capfd, "--model", str(tmp_path / "x.gguf")
        )

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "server.example"])
    def test_a_host_that_others_reach_without_a_key(self, host, folder, capfd):
        model = str(folder / "tiny.gguf")
        assert "give an api_key" in refused(capfd, "--model", model, "--host", host)

    def test_an_empty_key(self, folder, capfd):
        error = refused(capfd, "--model", str(folder / "tiny.gguf"), "--api-key", " ")
        assert "the api_key is empty" in error

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"models": []}, "wanted one model, got 0"),
            ({"interrupt_requests": True}, "interrupt_requests cuts off running answers"),
            ({"host": "0.0.0.0"}, "give an api_key"),
            ({"api_key": ""}, "the api_key is empty"),
            ({"port": "many"}, "port"),
            ({"prot": 1}, "prot"),
            ({"models": [{"model": "nowhere.gguf"}]}, "cannot be served"),
        ],
    )
    def test_a_config_that_cannot_be(self, changes, sentence, config, capfd):
        assert sentence in refused(capfd, "--config", config(**changes))

    @pytest.mark.parametrize("kind", ["pipe", "device", "folder", "endless"])
    def test_a_config_that_is_no_file_of_a_sane_size(self, kind, tmp_path, capfd):
        path = tmp_path / "c.json"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            path.write_bytes(b"[" * 2_000_000)
        assert "cannot be read" in refused(capfd, "--config", str(path))

    @pytest.mark.parametrize(
        ("name", "text"),
        [("c.json", "[" * 100_000), ("c.yaml", "a: &a [1]\nb: *a\n"), ("c.yaml", "[" * 1000)],
    )
    def test_a_config_without_bounds(self, name, text, tmp_path, capfd):
        (tmp_path / name).write_text(text)
        assert "cannot be read" in refused(capfd, "--config", str(tmp_path / name))

    def test_a_config_with_two_models(self, config, capfd):
        models = json.loads(Path(config()).read_text())["models"]
        assert "wanted one model, got 2" in refused(capfd, "--config", config(models=models * 2))

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("c.json", "{"),
            ("c.json", "7"),
            ("c.json", "[" * 100_000),
            ("c.json", '{"port": 1e999}'),
            ("c.yaml", "a: ["),
            ("c.yaml", "- 1"),
            ("c.yaml", "[" * 5000),
            ("c.yaml", "a: &a [1]\nb: [*a, *a]"),
        ],
    )
    def test_a_config_that_cannot_be_read(self, name, text, tmp_path, capfd):
        (tmp_path / name).write_text(text)
        error = refused(capfd, "--config", str(tmp_path / name))
        assert "cannot be read" in error or "wanted a mapping" in error

    @pytest.mark.parametrize("name", ["c.json", "c.yaml"])
    def test_a_config_that_is_no_file(self, name, tmp_path, capfd):
        os.mkfifo(tmp_path / name)
        error = refused(capfd, "--config", str(tmp_path / name))
        assert "wanted a regular file, got a pipe" in error

    def test_options_of_the_model_beside_a_config(self, config, capfd):
        assert main(["serve", "--config", config(), "--threads", "1"]) == 2
        assert "n_threads belongs into that file" in capfd.readouterr().err

    def test_a_port_that_is_taken(self, folder, capfd):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            model, probe = str(folder / "tiny.gguf"), str(folder / "p.safetensors")
            common = ("--model", model, "--probe", probe, "--threads", "1")
            free = str(free_port())
            error = refused(capfd, *common, "--port", port, "--metrics-port", free)
            assert "choose another port" in error
            error = refused(capfd, *common, "--port", "0", "--metrics-port", port)
            assert "choose another port" in error


@pytest.fixture(scope="module")
def running(folder):
    """A server with a key and a policy."""
    model, policy = str(folder / "tiny.gguf"), str(folder / "policy.yaml")
    options = ("--model", model, "--policy", policy, "--threads", "1", "--max-body-mib", "0.01")
    with serving(folder, *options, API_KEY=KEY) as running:
        yield running


@pytest.mark.parametrize("mode", [(), ("--continuous-batching", "--cb-num-blocks", "64")])
def test_a_transformers_folder_is_served(mode, tmp_path):
    pytest.importorskip("openai", reason="needs transformers serve")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tiny_folder.write(tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(path)
    save_probe(tmp_path / "p.safetensors", model, tokenizer=tokenizer)
    (tmp_path / "policy.yaml").write_text(POLICY)
    options = ("--model", str(path), "--policy", str(tmp_path / "policy.yaml"), "--device", "cpu")
    with serving(tmp_path, *options, *mode, API_KEY=KEY) as running:
        assert running.ask("/v1/completions", ASKED)[0] == 401
        status, headers, raw = running.ask("/v1/completions", ASKED, BEARER)
        assert (status, headers["x-emoguard-notice"]) == (200, "ai;v=1")
        assert json.loads(raw)["emoguard"]["notice"]["reasons"] == ["start"]
        assert running.ask("/readyz")[0] == 200
        assert b"emoguard_responses_total" in running.ask("/metrics", port=running.metrics)[2]
        assert running.stop(timeout=60)[0] == 0


BEARER = {"authorization": f"Bearer {KEY}"}
ASKED = {"prompt": "Once", "max_tokens": 4}


class TestServed:
    def test_an_answer_carries_the_notice(self, running):
        status, headers, raw = running.ask("/v1/completions", ASKED, BEARER)
        answer = json.loads(raw)
        assert (status, headers["x-emoguard-notice"]) == (200, "ai;v=1")
        assert answer["emoguard"]["notice"]["reasons"] == ["start"]

    def test_a_stream_ends_with_the_notice(self, running):
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
        _, _, raw = running.ask("/v1/chat/completions", body, BEARER)
        lines = [line for line in raw.decode().split("\n") if line]
        assert lines[-1] == "data: [DONE]"
        data = ["emoguard" in json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert data == [False] * (len(data) - 1) + [True]

    def test_a_plan_is_granted_within_the_bound_and_refused_beyond(self, running):
        for dose, status in ((0.05, 200), (0.5, 400)):
            body = ASKED | {"emoguard": {"plan": {"add": {"happy": dose}}}}
            answered, _, raw = running.ask("/v1/completions", body, BEARER)
            assert answered == status
            data = json.loads(raw)
            assert data["emoguard"]["steered"] if status == 200 else data["error"]["param"]

    @pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
    @pytest.mark.parametrize("body", [ASKED, ASKED | {"emoguard": "malformed"}])
    def test_without_the_key_nothing_is_told(self, running, headers, body):
        status, _, raw = running.ask("/v1/completions", body, headers)
        assert status == 401
        assert json.loads(raw) == {
            "error": {
                "message": "Invalid API key",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        }

    def test_a_body_that_is_too_large(self, running):
        status, _, raw = running.ask("/v1/completions", ASKED | {"prompt": "x" * 20000}, BEARER)
        assert (status, json.loads(raw)["error"]["code"]) == (413, "request_too_large")

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    def test_health_needs_no_key_and_answers_no_page(self, running, path):
        assert running.ask(path)[0] == 200
        assert running.ask(path, headers={"host": "evil.example"})[0] == 403
        assert running.ask(path, headers={"origin": "https://evil.example"})[0] == 403

    def test_metrics_are_on_their_own_port(self, running):
        assert running.ask("/metrics", headers=BEARER)[0] == 404
        status, _, raw = running.ask("/metrics", port=running.metrics)
        assert status == 200
        assert b"emoguard_responses_total" in raw
        evil = {"host": "evil.example"}
        assert running.ask("/metrics", headers=evil, port=running.metrics)[0] == 403

    def test_it_is_llama_cpp_server(self, running):
        _, _, raw = running.ask("/v1/models", headers=BEARER)
        assert [each["id"] for each in json.loads(raw)["data"]] == ["tiny.gguf"]
        body = {"input": "Once"}
        _, _, raw = running.ask("/extras/tokenize/count", body, BEARER)
        assert json.loads(raw)["count"] > 0


MIB = 1024 * 1024
LARGEST, SECONDS = 4 * MIB, 3


@pytest.fixture(scope="module")
def guarded(folder):
    """A server with a key and with limits that are met soon."""
    limits = ("--max-body-mib", str(LARGEST // MIB), "--body-seconds", str(SECONDS))
    options = ("--model", str(folder / "tiny.gguf"), "--threads", "1", *limits)
    with serving(folder, *options, API_KEY=KEY) as running:
        running.ask("/v1/completions", ASKED, BEARER)
        yield running


POSTED = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/engines/copilot-codex/completions",
    "/v1/embeddings",
    "/extras/tokenize",
    "/extras/tokenize/count",
    "/extras/detokenize",
    "/nowhere",
)


def head(path="/v1/chat/completions", **headers):
    """Return the head of a POST request as bytes."""
    lines = {"host": "localhost", "content-type": "application/json"} | headers
    text = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode()


@contextlib.contextmanager
def connections(running, number, sent):
    """Open connections that send this and then nothing; yields them."""

    def send(connection):
        with contextlib.suppress(OSError):  # a server may close, and answer, before the end
            connection.sendall(sent)

    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", running.port)
        results = [socket.create_connection(address, 30) for _ in range(number)]
        for connection in results:
            stack.enter_context(connection)
        threads = [threading.Thread(target=send, args=(each,)) for each in results]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield results


def answered(connection, number=1):
    """Return the status codes of this many answers on a connection, in order."""
    raw, actual = b"", []
    while len(actual) < number and (more := connection.recv(65536)):
        raw += more
        actual = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]
    return actual


class TestKeyFirst:
    """Without the key every request with a body is 401, and its body is not read."""

    @pytest.mark.parametrize("path", POSTED)
    def test_for_every_body(self, guarded, path):
        cases = [
            head(path, content_length=1) + b"{",
            head(path, content_length=0),
            head(path, content_length=2, content_encoding="gzip") + b"\x1f\x8b",
            head(path, content_length=2, authorization="Bearer wrong") + b"{}",
            head(path, content_length=10 * LARGEST),
            head(path, transfer_encoding="chunked"),
            head(path, transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n\r\n",
            # The client waits for 100 before it sends the body: the answer comes in its place.
            head(path, content_length=2, expect="100-continue"),
        ]
        for sent in cases:
            with connections(guarded, 1, sent) as (connection,):
                assert answered(connection) == [401], sent

    def test_its_answer_is_the_servers_own_to_pages_of_other_sites_too(self, guarded):
        origin = {"origin": "https://page.example"}
        results = [
            guarded.ask(path, body, origin, method=method)
            for path, body, method in (
                ("/v1/completions", ASKED, "POST"),
                ("/v1/models", None, "GET"),  # refused by the server itself
            )
        ]
        for _, headers, _ in results:
            assert headers.pop("access-control-allow-origin")
            assert headers.pop("x-request-id")
            headers.pop("date")
        assert results[0] == results[1]

    def test_the_servers_open_routes_stay_open(self, guarded):
        assert guarded.ask("/openapi.json")[0] == 200
        assert guarded.ask("/nowhere")[0] == 404
        assert guarded.ask("/v1/completions")[0] == 405
        asking = {"origin": "https://page.example", "access-control-request-method": "POST"}
        assert guarded.ask("/v1/completions", headers=asking, method="OPTIONS")[0] == 200

    def test_requests_in_one_go_are_answered_in_order(self, guarded):
        body = json.dumps(ASKED).encode()
        length = {"content_length": len(body)}
        keyed = head("/v1/completions", **length, authorization=BEARER["authorization"]) + body
        keyless = head("/v1/completions", **length) + body
        with connections(guarded, 1, keyless + keyed + keyless + keyed) as (connection,):
            assert answered(connection, 4) == [401, 200, 401, 200]

    @pytest.mark.parametrize(
        "body", [b'{"prompt": ', b"prompt=hello", b"", b"\xff\xfe{}", b"[" * 9000]
    )
    @pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"])
    def test_a_body_that_is_no_json_is_the_clients_mistake(self, guarded, path, body):
        keyed = {"authorization": BEARER["authorization"], "content_type": "application/json"}
        with connections(guarded, 1, head(path, content_length=len(body), **keyed) + body) as (
            connection,
        ):
            assert answered(connection)[0] in (400, 422)

    def test_a_length_that_lies_is_no_request(self, guarded):
        body = json.dumps(ASKED).encode()
        keyed = {"authorization": BEARER["authorization"]}
        short = head("/v1/completions", content_length=len(body), **keyed) + body + b"x\r\n\r\n"
        with connections(guarded, 1, short) as (connection,):
            assert answered(connection, 2) == [200, 400]
        long = head("/v1/completions", content_length=len(body) + 5, **keyed) + body
        with connections(guarded, 1, long) as (connection,):
            assert answered(connection) == [408]
        both = head("/v1/completions", content_length=2, transfer_encoding="chunked", **keyed)
        with connections(guarded, 1, both + b"0\r\n\r\n") as (connection,):
            assert answered(connection)[0] in (400, 500)


@contextlib.contextmanager
def grown(running):
    """Yield a list that has, in the end, by how many bytes the server's memory was larger."""
    process, actual = psutil.Process(running.process.pid), []
    before = process.memory_info().rss
    proc = Path(f"/proc/{process.pid}")
    (proc / "clear_refs").write_text("5")  # the peak is counted from here
    yield actual
    peak = re.search(r"VmHWM:\s*(\d+) kB", (proc / "status").read_text())
    actual.append(int(peak[1]) * 1024 - before)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
class TestMemory:
    """Bodies that clients send are bounded together, and without the key not read at all."""

    def test_50_connections_without_the_key_take_none(self, guarded):
        sent = head(content_length=LARGEST) + b"x" * (LARGEST - 1)
        with grown(guarded) as memory, connections(guarded, 50, sent) as result:
            assert {tuple(answered(each)) for each in result} == {(401,)}
        assert memory[0] < 50 * MIB

    def test_50_stalled_bodies_take_a_bounded_share_and_are_given_up(self, guarded):
        keyed = head(content_length=LARGEST, authorization=BEARER["authorization"])
        sent = keyed + b"x" * (LARGEST - 1)
        with grown(guarded) as memory, connections(guarded, 50, sent) as result:
            assert guarded.ask("/v1/models", headers=BEARER)[0] == 200
            codes = [code for each in result for code in answered(each)]
        assert set(codes) == {408, 503}
        assert codes.count(503) >= 50 - 9
        # Eight bodies, and what uvicorn holds of every connection.
        assert memory[0] < 8 * LARGEST + 50 * MIB
        assert guarded.ask("/v1/completions", ASKED, BEARER)[0] == 200


@pytest.fixture(scope="module")
def plain(folder):
    """A server with EmoGuard switched off."""
    options = ("--model", str(folder / "tiny.gguf"), "--threads", "1")
    with serving(folder, *options, EMOGUARD_DISABLE="1") as running:
        yield running


SAME = ASKED | {"seed": 1, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Hé ✓"}], "max_tokens": 4, "temperature": 0}


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/v1/completions", SAME, "POST"),
        ("/v1/completions", SAME | {"stream": True}, "POST"),
        ("/v1/completions?a=b", SAME | {"logprobs": 2}, "POST"),
        ("/v1/chat/completions", CHAT, "POST"),
        ("/v1/chat/completions", CHAT | {"stream": True}, "POST"),
        ("/v1/chat/completions/", CHAT, "POST"),
        ("/v1/completions", ["no object"], "POST"),
        ("/v1/completions", SAME | {"max_tokens": "many"}, "POST"),
        ("/v1/completions", None, "POST"),
        ("/v1/completions", None, "GET"),
        ("/v1/completions", None, "HEAD"),
        ("/v1/embeddings", {"input": "Once"}, "POST"),
        ("/extras/tokenize", {"input": "Hé ✓"}, "POST"),
        ("/extras/detokenize", {"tokens": [5, 6]}, "POST"),
        ("/v1/models", None, "GET"),
        ("/nowhere", SAME, "POST"),
        ("/docs", None, "GET"),
    ],
)
def test_with_the_key_and_without_a_notice_the_bytes_are_the_plain_servers(
    guarded, plain, path, body, method
):
    headers = BEARER | {"origin": "https://page.example"}
    watched, bare = (
        _timeless(each.ask(path, body, headers, method=method)) for each in (guarded, plain)
    )
    assert watched == bare


def _timeless(answer):
    """Return an answer without what a server makes up anew each time, and its own address."""
    status, headers, raw = answer
    new = ("date", "x-request-id", "openai-processing-ms", "location")
    raw = re.sub(rb'"(id|created|model)": ?("[^"]*"|\d+)', b"", raw)
    return status, {k: v for k, v in headers.items() if k.lower() not in new}, raw


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_with_everything_written(self, number, folder, config, tmp_path):
        log = tmp_path / "audit.jsonl"
        policy = tmp_path / "policy.yaml"
        sink = {"jsonl": {"path": str(log), "key_env": "AUDIT_KEY"}}
        policy.write_text(json.dumps({"version": 1, "sinks": [sink]}))
        arguments = ("--config", config(), "--policy", str(policy))
        with serving(folder, *arguments, AUDIT_KEY="ab" * 32) as running:
            for _ in range(3):
                assert running.ask("/v1/completions", ASKED)[0] == 200
            code, _ = running.stop(number)
        assert code == 0
        assert len(log.read_text().splitlines()) == 3

    # A plan is steered through the callback, whose context is freed at the end.
    @pytest.mark.parametrize("own", [{}, {"emoguard": {"plan": {"add": {"happy": 0.01}}}}])
    def test_an_answer_in_the_making_does_not_hold_it_up(self, folder, own):
        arguments = ("--model", str(folder / "tiny.gguf"), "--threads", "1", "--context", "200000")
        arguments += ("--policy", str(folder / "policy.yaml"))
        with serving(folder, *arguments) as running:
            body = {"prompt": "Once", "max_tokens": 199000, "logit_bias": {"2": -100}} | own
            thread = threading.Thread(target=_ignoring, args=(running, body))
            thread.start()
            time.sleep(1)
            code, seconds = running.stop(timeout=60)
            thread.join()
        assert code == 0
        # Ten seconds are the answer's to end in; the rest is what the server took for itself.
        assert seconds < 20

    def test_the_generation_is_stopped_before_the_watch_detaches(self, folder, monkeypatch):
        module = importlib.import_module("emoguard.cli.serve")
        plain, watched = module._open, []

        def opened(*arguments):
            served = plain(*arguments)
            stop = lambda: watched.append("_emoguard" in vars(served.model))  # noqa: E731
            return dataclasses.replace(served, stop=stop)

        monkeypatch.setattr(module, "_open", opened)
        monkeypatch.setattr(module, "run_server", lambda _: None)
        arguments = ("--model", str(folder / "tiny.gguf"), "--probe", str(folder / "p.safetensors"))
        assert main(["serve", *arguments, "--metrics-port", str(free_port())]) == 0
        assert watched == [True]

    def test_when_disabled_it_is_the_plain_server(self, plain):
        body = ASKED | {"emoguard": {"plan": "nonsense"}}
        status, headers, raw = plain.ask("/v1/completions", body)
        assert (status, "emoguard" in json.loads(raw)) == (200, False)
        assert "x-emoguard-notice" not in headers
        assert plain.ask("/readyz")[0] == 200


def test_the_page_wants_the_key_and_ends_with_the_server(folder):
    arguments = ("--model", str(folder / "tiny.gguf"), "--threads", "1", "--page")
    with serving(folder, *arguments, API_KEY=KEY) as running:
        assert b"<title>EmoGuard</title>" in running.ask("/emoguard/")[2]
        assert running.ask("/emoguard/live")[0] == 401
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        assert running.ask("/emoguard/answer", body)[0] == 401
        status, _, raw = running.ask("/emoguard/answer", body, BEARER)
        assert (status, raw.count(b"event: end")) == (200, 1)
        assert b'"status":"scored"' in raw
        live = urllib.request.Request(
            f"http://127.0.0.1:{running.port}/emoguard/live?view=operator", headers=BEARER
        )
        with urllib.request.urlopen(live, timeout=60) as viewer:
            while viewer.readline() != b"event: responses\n":
                pass
            code, seconds = running.stop()
            assert b"event: bye" in viewer.read()
    assert code == 0
    assert seconds < 10  # no open page makes it wait for the end of its patience


def _ignoring(running, body):
    with contextlib.suppress(Exception):
        running.ask("/v1/completions", body)
