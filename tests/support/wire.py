"""An OpenAI-compatible app without a model, a watch without a runtime, and a client of both.

The app generates nothing: it makes one report per request, as a plug-in does, and answers with the
messages it was given, cut wherever the test wants.
"""

import asyncio
import json
from collections import deque
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from emoguard_asgi import EmoGuardMiddleware

from emoguard import EmoGuardError, Guard, Policy, Request
from emoguard.notices.policy import NoticePolicy
from emoguard.runtime.reading import Steered
from emoguard.runtime.session import REQUEST
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    make_probe,
    make_reading,
    measure_calibration,
    put_reading,
)

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
NOTICED = Policy(notices=NoticePolicy(profiles=("eu_art50",)))
"""A policy under which the first response of every conversation carries a notice."""


class FakeWatch:
    """What the middleware asks of a watch."""

    enabled = True

    def __init__(self, policy=NOTICED, sinks=()):
        door = FakeResiduals()
        probe = make_probe(door)
        calibrations = [measure_calibration(door, probe)]
        self.guard = Guard(probe, calibrations, policy, sinks)
        self.site = self.guard.site(FAKE_IDENTITY)
        self.reports = deque(maxlen=policy.keep_reports)
        self.requests = []
        self.sequences = 1
        self.abandoned = []
        self.recorders = []

    @contextmanager
    def recording(self, request_id):
        """Collect the reports of a request."""
        self.recorders.append((request_id, reports := []))
        try:
            yield reports
        finally:
            self.recorders.remove((request_id, reports))

    def check_plan(self, plan):
        """Refuse what the guard refuses, and what this watch cannot do."""
        if plan.layers == (0,):
            raise EmoGuardError("layer 0 cannot be steered here: leave it out")
        self.site.steering(plan)

    def abandon(self, request_id):
        """Note that nobody waits for a request any more."""
        self.abandoned.append(request_id)
        self.guard.outbox.abandon(request_id)

    def generate(self, text="", **changes):
        """Make the reports of one generation in the context of the caller, one per sequence."""
        request = REQUEST.get() or Request()
        self.requests.append(request)
        for n in range(self.sequences):
            numbered = request if self.sequences == 1 else replace(request, id=f"{request.id}-{n}")
            self.generate_for(numbered, text, **changes)

    def generate_for(self, request, text="", **changes):
        """Make the report of one sequence."""
        steering = self.site.steering(request.plan)
        if steering is not None:
            dose = np.full(40, 0.05, np.float32)
            none = np.zeros(40, bool)
            changes = changes | {"steered": Steered(steering, dose, none, none)}
        reading = make_reading(**changes)
        report = put_reading(self.guard, reading, request, lambda: text)
        self.reports.append(report)
        for call, reports in self.recorders:
            if call == report.call:
                reports.append(report)


class InnerApp:
    """Answers every request with the same messages, in any context it finds.

    It generates just before the message that ends a choice; `early`: before the first one.
    """

    def __init__(self, watch, messages, text="", *, early=False):
        self.watch = watch
        self.messages = messages
        self.text = text
        self.early = early
        self.bodies = []
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        if self.early:
            await asyncio.to_thread(self.watch.generate, self.text)
        for message in self.messages:
            if b'finish_reason": "' in message.get("body", b"") and not self.early and self.watch:
                await asyncio.to_thread(self.watch.generate, self.text)
            await send(message)


def start(kind="text/event-stream", *extra, status=200):
    headers = [(b"date", b"today"), (b"content-type", kind.encode()), *extra]
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content, *, more=False):
    return {"type": "http.response.body", "body": content, "more_body": more}


def chunk(content=None, finish=None, **others):
    """Return one chunk of a chat stream as a server writes it."""
    choice = {"index": 0, "delta": {} if content is None else {"content": content}}
    choice |= {"logprobs": None, "finish_reason": finish}
    result = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return json.dumps(result | {"choices": [choice]} | others)


def event(text, end="\n"):
    return f"data: {text}{end}{end}".encode()


def stream(*events):
    """Return the messages of a stream: one event per message, then an empty last one."""
    return [start(), *(body(each, more=True) for each in events), body(b"")]


STREAM = (
    event(chunk("Hel")),
    event(chunk("lo ✓")),
    b": ping - now\r\n\r\n",
    event(chunk(finish="stop")),
    event("[DONE]"),
)

COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello } ✓"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
).encode()


def whole(content=COMPLETION, *extra, status=200):
    length = (b"content-length", b"%d" % len(content))
    return [start("application/json", length, *extra, status=status), body(content)]


class Exchange:
    """One request to an ASGI app, and every message that came back."""

    def __init__(self, sent):
        self.sent = sent

    @property
    def start(self):
        return next(m for m in self.sent if m["type"] == "http.response.start")

    @property
    def status(self):
        return self.start["status"]

    @property
    def headers(self):
        return {k.decode(): v.decode() for k, v in self.start["headers"]}

    @property
    def parts(self):
        return [m.get("body", b"") for m in self.sent if m["type"] == "http.response.body"]

    @property
    def body(self):
        return b"".join(self.parts)

    @property
    def json(self):
        return json.loads(self.body)


def call(app, content=None, *, path=CHAT, method="POST", headers=(), parts=None, leave_after=None):
    """Send one request to `app` and return the exchange.

    `content` is a JSON object or bytes, `parts` the body in pieces. The client leaves after
    `leave_after` messages of the answer, else when it is complete.
    """
    if parts is None:
        content = {"messages": [{"role": "user", "content": "Hi"}]} if content is None else content
        parts = [content if isinstance(content, bytes) else json.dumps(content).encode()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8000"), *headers],
    }
    return asyncio.run(_call(app, scope, parts, leave_after))


async def _call(app, scope, parts, leave_after):
    waiting = [
        {"type": "http.request", "body": part, "more_body": n < len(parts) - 1}
        for n, part in enumerate(parts)
    ]
    sent, gone = [], asyncio.Event()

    async def receive():
        if waiting:
            return waiting.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if leave_after is not None and len(sent) >= leave_after:
            gone.set()
            await asyncio.sleep(0)  # as a server does, which learns of it in its loop

    await app(scope, receive, send)
    return Exchange(sent)


def wrapped(messages, policy=NOTICED, text="", sinks=(), *, early=False, **options):
    """Return (app under the middleware, watch, inner app)."""
    watch = FakeWatch(policy, sinks)
    inner = InnerApp(watch, messages, text, early=early)
    return EmoGuardMiddleware(inner, watch, **options), watch, inner


def objects(answer):
    """Return the `emoguard` objects of a stream's events, None for each without."""
    lines = answer.body.decode().split("\n")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [json.loads(each).get("emoguard") for each in data]
