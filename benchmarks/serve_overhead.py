"""What do the guard and the middleware cost a server?

Method. One child process holds SmolLM2 in llama_cpp.server's own app and serves it by turns bare
and as `emoguard serve` does: guard attached, a notice profile, audit log and Prometheus exporter,
middleware around it. A pair is the same greedy streams on both, back to back, the order
alternating, the prompt cache emptied before; attaching lies outside the timed part. The clients
are threads of this process, 1 or 4 at once; the server generates one stream at a time.
`throughput_loss_percent` is the share of tokens per second that is lost over a batch,
`first_token_ms` the difference of the median time from a request to the first piece of its text,
less the time the server was busy with another stream, which throughput tells of. Medians of paired
differences with 95 % bootstrap intervals; the goals are for the upper ends.

With `--page` the watched side has the live page in front, whose sink keeps 1,000 reports from the
start. `--viewers` operator's views are then open in each watched batch and read all they are sent,
scores of open answers included; `--stuck` ones ask for the same and never read. `rss_growth_mib` is
what the server's memory grew by from after the warm-up to the end.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import Row, arguments, interleave, median, show
from tests.support.models import smollm2_gguf

PROMPTS = (
    "Write a short note to a colleague about the plan for the week.",
    "Explain how a bicycle stays upright.",
    "Describe the way from a station to a market square.",
    "Tell a friend what to cook with rice, beans and tomatoes.",
)
TOKENS = 48
GOALS = {"throughput_loss_percent": 2.0, "first_token_ms": 5.0, "rss_growth_mib": 50.0}
WITH_VIEWERS = 5.0
"""Goal for the lost throughput while somebody looks."""


class Switched:
    """An ASGI app that is now the bare one, now the watched one; `/bare` and `/watched` switch."""

    def __init__(self, served: Any, guard: Any, *, page: bool) -> None:
        self._served = served
        self._guard = guard
        self._page = page
        self._watch: Any = None
        self._app = served.app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"] in ("/bare", "/watched"):
            self._switch(watched=scope["path"] == "/watched")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._app(scope, receive, send)

    def _switch(self, *, watched: bool) -> None:
        from emoguard_asgi import EmoGuardMiddleware
        from emoguard_page import Page

        import emoguard

        if self._watch is not None:
            self._watch.detach()
            self._watch, self._app = None, self._served.app
        if watched:
            self._watch = emoguard.attach(self._served.model, self._guard)
            self._app = EmoGuardMiddleware(self._served.app, self._watch)
            if self._page:
                self._app = Page(self._app, self._watch)
        self._served.model.reset()


def serve(folder: str, threads: int, *, page: bool) -> None:
    """Be the child: serve on a free port, which is printed, until the parent ends it."""
    import uvicorn
    from emoguard_llamacpp import server

    import emoguard
    from emoguard.notices.policy import NoticePolicy
    from emoguard.policy.policy import PagePolicy, Policy
    from emoguard.testing import make_report

    settings, model = server.read_model(str(smollm2_gguf()), n_ctx=1024, n_threads=threads)
    served = server.open_app(settings, model)
    log = {"path": f"{folder}/audit.jsonl", "key_file": f"{folder}/key", "create_key": True}
    kept: tuple[dict[str, Any], ...] = ({"page": {}},) if page else ()
    policy = Policy(
        notices=NoticePolicy(profiles=("eu_art50",)),
        page=PagePolicy(curves=True),
        sinks=({"prometheus": {"port": 0}}, {"jsonl": log}, *kept),
    )
    with emoguard.open_guard(served.model, policy) as guard:
        for _ in range(1000 if page else 0):
            guard.sinks[-1].report(make_report())
        app = Switched(served, guard, page=page)
        config = uvicorn.Config(app, port=0, log_level="info", access_log=False)
        uvicorn.Server(config).run()


class Child(NamedTuple):
    """The child's port and process."""

    port: int
    pid: int

    @property
    def rss_mib(self) -> float:
        """Return its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


class Audience(NamedTuple):
    """The number of operator's views open in a watched batch, and of those that never read."""

    reading: int = 0
    stuck: int = 0

    @contextlib.contextmanager
    def looking(self, port: int) -> Iterator[None]:
        """Keep the views open in this block."""
        head = b"GET /emoguard/live?view=operator HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        views = [
            socket.create_connection(("127.0.0.1", port)) for _ in range(self.reading + self.stuck)
        ]
        for view in views:
            view.sendall(head)
        readers = [
            threading.Thread(target=read_all, args=(view,)) for view in views[: self.reading]
        ]
        for reader in readers:
            reader.start()
        try:
            yield
        finally:
            for view in views:
                with contextlib.suppress(OSError):
                    view.shutdown(socket.SHUT_RDWR)
            for reader in readers:
                reader.join()
            for view in views:
                view.close()


def read_all(view: socket.socket) -> None:
    """Read a stream to its end."""
    with contextlib.suppress(OSError):
        while view.recv(65536):
            pass


@contextlib.contextmanager
def child(threads: int, *, page: bool) -> Iterator[Child]:
    """Run the child; yields its port and process id."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", folder, "--threads", str(threads)]
        command += ["--page"] if page else []
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stderr is not None
        try:
            port = next(_port(line) for line in process.stderr if b"running on" in line)
            yield Child(port, process.pid)
        finally:
            process.terminate()
            process.communicate()


def _port(line: bytes) -> int:
    return int(line.partition(b"127.0.0.1:")[2].split()[0])


def request(port: int, method: str, path: str, body: Any = None) -> http.client.HTTPConnection:
    """Send a request on a connection of its own, as clients without a pool do."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection


class Stream(NamedTuple):
    """The times of a stream's request, first and last piece, and its number of pieces."""

    start: float
    first: float
    last: float
    pieces: int


def stream(port: int, prompt: str) -> Stream:
    """Ask for one stream and read it."""
    start, first, pieces = time.perf_counter(), 0.0, 0
    body = {"messages": [{"role": "user", "content": prompt}], "stream": True}
    connection = request(
        port, "POST", "/v1/chat/completions", body | {"max_tokens": TOKENS, "temperature": 0}
    )
    with contextlib.closing(connection):
        for line in connection.getresponse():
            if b'"content"' in line:
                first = first or time.perf_counter()
                pieces += 1
    return Stream(start, first, time.perf_counter(), pieces)


def batch(port: int, clients: int, watched: bool, audience: Audience) -> tuple[float, float]:
    """Return a batch's pieces per second, and `first_token` of its streams."""
    with contextlib.closing(request(port, "POST", "/watched" if watched else "/bare")) as switch:
        switch.getresponse().read()
    results: list[Stream] = []

    def work(prompts: Sequence[str]) -> None:
        results.extend(stream(port, prompt) for prompt in prompts)

    shares = [PROMPTS[n::clients] for n in range(clients)]
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    with audience.looking(port) if watched else contextlib.nullcontext():
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
    assert len(results) == len(PROMPTS)
    return sum(each.pieces for each in results) / seconds, first_token(results)


def first_token(streams: Sequence[Stream]) -> float:
    """Return the median ms to a first piece, counted from when the server was free for it."""
    free, waits = 0.0, []
    for each in sorted(streams, key=lambda each: each.first):
        waits.append(1e3 * (each.first - max(each.start, free)))
        free = each.last
    return float(np.median(waits))


def measure(server: Child, clients: int, pairs: int, audience: Audience) -> list[Row]:
    """Return the rows for a number of clients."""
    firsts: tuple[list[float], list[float]] = ([], [])

    def half(side: int) -> float:
        speed, first = batch(server.port, clients, bool(side), audience)
        firsts[side].append(first)
        return speed

    half(0), half(1)  # the first of each warms up
    firsts[0].clear(), firsts[1].clear()
    before = server.rss_mib
    bare, watched = (
        np.array(each)
        for each in interleave(lambda: half(0), lambda: half(1), pairs, f"{clients} clients")
    )
    name, difference = f"clients{clients}_", np.array(firsts[1]) - np.array(firsts[0])
    return [
        median(f"{name}bare_tokens_per_second", bare, "1/s"),
        median(f"{name}bare_first_token_ms", firsts[0], "ms"),
        median(f"{name}throughput_loss_percent", 100 * (1 - watched / bare), "%"),
        median(f"{name}first_token_ms", difference, "ms"),
        Row(f"{name}rss_growth_mib", server.rss_mib - before, None, None, "MiB"),
    ]


def main() -> None:
    """Measure, print the table, and print whether the goals were met."""
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--clients", default="1,4", help="clients at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of llama.cpp")
    parser.add_argument("--page", action="store_true", help="put the live page in front")
    parser.add_argument("--viewers", type=int, default=0, help="operator's views that read")
    parser.add_argument("--stuck", type=int, default=0, help="operator's views that never read")
    parser.add_argument("--serve", help="be the child, with this folder")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads, page=options.page)
        return
    audience = Audience(options.viewers, options.stuck)
    if any(audience) and not options.page:
        parser.error("--viewers and --stuck look at the page: give --page, too")
    with child(options.threads, page=options.page) as server:
        rows = [
            row
            for clients in map(int, options.clients.split(","))
            for row in measure(server, clients, options.pairs, audience)
        ]
    show("serve_overhead", rows, as_json=options.json)
    for row in rows:
        goal, high = (
            GOALS.get(row.name.partition("_")[2]),
            row.value if row.high is None else row.high,
        )
        if any(audience) and row.name.endswith("throughput_loss_percent"):
            goal = WITH_VIEWERS
        if goal is not None and high > goal:
            sys.stderr.write(f"{row.name}: the upper end {high:.3g} is above {goal:g}\n")


if __name__ == "__main__":
    main()
