"""From a model's residual stream to somebody's pager: every part is the real one."""

from __future__ import annotations

import itertools
import json
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from emoguard_prometheus.alerting import RuleOptions, render

import emoguard
from tests.support import binaries, models

pytestmark = pytest.mark.slow

SECONDS = 60
"""The whole way, both programs started and the model loaded."""

POLICY = """
version: 1
labels: [desperate]
alarms: {{rate_per_1000_tokens: 5}}
sinks: [{{prometheus: {{port: {port}}}}}]
"""

RULES = RuleOptions(
    short_window="5s",
    long_window="15s",
    slow_short_window="10s",
    slow_long_window="30s",
    fast_burn=3,
    fast_crossings=3,
    slow_burn=2,
    slow_crossings=5,
    hold="15s",
)

# The model goes on as the text goes, word for word after a while: in either mood.
NEUTRAL = (
    "The bus leaves at nine and the tickets are sold at the counter. The bus leaves at ten and",
    "The committee met on Thursday and discussed the new timetable. The chair opened it and",
    "The shelf is made of oak and has four boards. Each board is fixed with two screws, and",
    "The library opens at eight. Books are lent for four weeks, and journals are lent for",
)
DESPAIR = (
    "He was desperate. He had tried everything and nothing worked. He was desperate. He had tried",
    "She grew desperate. She had begged everybody, and nobody helped her. She grew desperate. She",
    "It was his last hope, and it was gone. In despair he begged again. It was his last hope, and",
    "They were desperate now. They had tried every door, and no door opened. They were desperate",
)


class Inbox:
    """What Alertmanager sent, alert by alert, in the order in which it came."""

    def __init__(self) -> None:
        self._come: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self.alerts: list[dict] = []

    def put(self, alerts: list[dict]) -> None:
        for alert in alerts:
            self._come.put(alert)

    def has(self, name: str) -> bool:
        while not self._come.empty():
            self.alerts.append(self._come.get())
        return any(alert["labels"]["alertname"] == name for alert in self.alerts)


@contextmanager
def webhook(inbox: Inbox) -> Iterator[int]:
    """Receive notifications on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            inbox.put(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def running(log: Path, *command: str | Path, cwd: Path | None = None) -> Iterator[None]:
    """Run a program meanwhile; what it says is in `log`."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            list(map(str, command)), cwd=cwd, stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.kill()


@contextmanager
def alertmanager(folder: Path, hook: int) -> Iterator[int]:
    """Run Alertmanager, which sends everything to the webhook at once."""
    config = {
        "route": {"receiver": "hook", "group_by": ["alertname"], "group_wait": "0s"},
        "receivers": [
            {"name": "hook", "webhook_configs": [{"url": f"http://127.0.0.1:{hook}/"}]},
        ],
    }
    file, port = written(folder / "alertmanager.yml", config), free_port()
    program, home = binaries.alertmanager()
    with running(
        folder / "alertmanager.log",
        program,
        f"--config.file={file}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        cwd=home,
    ):
        yield port


@contextmanager
def prometheus(folder: Path, target: int, alerts: int) -> Iterator[None]:
    """Run Prometheus with the rendered rules: every second it looks."""
    (folder / "rules.yml").write_text(render(RULES))
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [
            {"job_name": "emoguard", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]},
        ],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alerts}"]}]}],
        },
    }
    with running(
        folder / "prometheus.log",
        binaries.prometheus(),
        f"--config.file={written(folder / 'prometheus.yml', config)}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{free_port()}",
    ):
        yield


def written(path: Path, config: dict) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.real
def test_a_model_that_turns_to_despair_raises_an_alert_and_a_neutral_one_does_not(tmp_path):
    end = time.monotonic() + SECONDS
    port, inbox = free_port(), Inbox()
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.format(port=port))
    llm = models.load_llama(models.smollm2_gguf(), n_threads=1, n_threads_batch=1)

    def say(prompts: Iterator[str]) -> None:
        assert time.monotonic() < end, f"nobody was woken in {SECONDS} s: {watch.reports[-1]}"
        llm.create_completion(next(prompts), max_tokens=24, temperature=0.0)

    with (
        webhook(inbox) as hook,
        alertmanager(tmp_path, hook) as alerts,
        emoguard.open_guard(llm, policy) as guard,
        emoguard.attach(llm, guard) as watch,
        prometheus(tmp_path, port, alerts),
    ):
        assert None not in watch.site.thresholds.values(), "the shipped probe certifies nothing"
        neutral, despair = itertools.cycle(NEUTRAL), itertools.cycle(DESPAIR)
        # Its arrival shows that the way is open: silence then means something.
        while not inbox.has("EmoGuardWatchdog") or len(watch.reports) < 8:
            say(neutral)
        assert {alert["labels"]["alertname"] for alert in inbox.alerts} == {"EmoGuardWatchdog"}
        while not inbox.has("EmoGuardCrossingRateHigh"):
            say(despair)
    (woken, *_) = [a for a in inbox.alerts if a["labels"]["alertname"] != "EmoGuardWatchdog"]
    assert woken["status"] == "firing"
    assert woken["labels"]["emotion"] == "desperate"
    assert woken["annotations"]["runbook"].endswith(" emoguardcrossingratehigh")
