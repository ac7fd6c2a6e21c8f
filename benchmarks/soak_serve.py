"""Does a server keep anything of clients that leave?

Method. llama_cpp.server with SmolLM2, wrapped as `emoguard serve` wraps it, answers 1,000 requests:
streams and bodies, chat and plain, some steered, some refused, from four clients at once. A client
leaves three in ten streams at a random moment: before the first byte, or after some pieces. At the
end no session is open, no notice is on its way, the log has one line per report, and when the
server has stopped there are as many threads as before.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_asgi import EmoGuardMiddleware
from emoguard_llamacpp import server

import emoguard
from benchmarks.measure import Row, arguments, show
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.policy import Policy, RequestPolicy
from tests.clients.serving import Up, serving
from tests.support.models import smollm2_gguf

CLIENTS = 4
TOKENS = 6


def send(up: Up, draw: random.Random) -> str:
    """Send one request of a random kind; return its outcome."""
    path, body = drawn(draw)
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", up.port), 120) as connection:
        connection.sendall(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
        if body["stream"] and draw.random() < 0.3:
            left_after = draw.choice((0, 1, 2, 4))
            got = b""
            while got.count(b"data: ") < left_after and (more := connection.recv(4096)):
                got += more
            return "left"
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        whole = answer.read()
    if answer.status == 400:
        return "refused" if b'"param": "emoguard"' in whole else "wrong"
    return "answered" if answer.status == 200 and whole.count(b'"emoguard":') == 1 else "wrong"


def drawn(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """Return the path and body of one request."""
    body: dict[str, Any] = {"max_tokens": TOKENS, "stream": draw.random() < 0.6}
    plan = draw.choices(({}, {"add": {"happy": 0.05}}, {"add": {"happy": 9}}), (6, 3, 1))[0]
    if plan:
        body["emoguard"] = {"plan": plan}
    if draw.random() < 0.5:
        return "/v1/completions", body | {"prompt": "The weather today is"}
    message = {"role": "user", "content": "Name a colour."}
    return "/v1/chat/completions", body | {"messages": [message]}


def soak(responses: int, folder: str) -> list[Row]:
    """Send the requests; return the counts and the leftovers."""
    settings, model = server.read_model(str(smollm2_gguf()), n_ctx=512, n_threads=1)
    served = server.open_app(settings, model)
    log = {"path": f"{folder}/audit.jsonl", "key_file": f"{folder}/key", "create_key": True}
    policy = Policy(
        notices=NoticePolicy(profiles=("eu_art50",)),
        requests=RequestPolicy(plan=True),
        sinks=({"jsonl": log},),
    )
    before = threading.active_count()
    fates: list[str] = []
    with (
        emoguard.open_guard(served.model, policy) as guard,
        emoguard.attach(served.model, guard) as watch,
        serving(EmoGuardMiddleware(served.app, watch)) as up,
    ):
        clients = [
            threading.Thread(target=work, args=(up, n, responses // CLIENTS, fates))
            for n in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        while up.busy:
            time.sleep(0.05)
        sessions = int(watch.live() is not None)
        waiting = len(guard.outbox.waiting())
    became = Counter(fates)
    served.model.close()
    lines = [json.loads(line) for line in Path(f"{folder}/audit.jsonl").read_text().splitlines()]
    noticed = sum(line["notice"]["channel"] == "field" for line in lines)
    return [
        Row("serve_requests", sum(became.values()), None, None, "requests"),
        Row("serve_answered", became["answered"], None, None, "requests"),
        Row("serve_left", became["left"], None, None, "requests"),
        Row("serve_refused", became["refused"], None, None, "requests"),
        Row("serve_notices_lost", len(lines) - noticed, None, None, "notices"),
        Row("serve_answers_wrong", became["wrong"], None, None, "requests"),
        Row("serve_answers_not_logged", max(0, became["answered"] - noticed), None, None, "lines"),
        Row("serve_sessions_open", sessions, None, None, "sessions"),
        Row("serve_notices_on_their_way", waiting, None, None, "notices"),
        Row("serve_threads_left", threads_beyond(before), None, None, "threads"),
    ]


def work(up: Up, seed: int, requests: int, fates: list[str]) -> None:
    """Send requests one after the other, as one client."""
    draw = random.Random(seed)
    for number in range(requests):
        fates.append(send(up, draw))
        if seed == 0 and sys.stderr.isatty():
            sys.stderr.write(f"\rserve: {number + 1}/{requests} of one client in {CLIENTS}")


def threads_beyond(before: int) -> int:
    """Return the number of threads beyond those before, after the time it takes to end one."""
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    return threading.active_count() - before


FAILURES = 5
"""The last rows, which must all be 0."""


def main() -> None:
    """Run, print the table, fail when anything is left or wrong."""
    parser = arguments(__doc__)
    parser.add_argument("--responses", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = soak(options.responses, folder)
    show("soak_serve", rows, as_json=options.json)
    sys.exit(any(row.value for row in rows[-FAILURES:]))


if __name__ == "__main__":
    main()
