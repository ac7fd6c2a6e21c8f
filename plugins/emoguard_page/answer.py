"""Calls the app as a client does, for one viewer, and adds readings to the answer's tokens."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from emoguard_asgi.asgi import App, Message, Receive, Scope, with_header
from emoguard_asgi.request import OWN

from emoguard.records import PHASES, Report
from emoguard.runtime.pieces import Pieces
from emoguard.runtime.watch import Watch
from emoguard_page.alignment import Alignment, Span
from emoguard_page.completion import Completion

log = logging.getLogger("emoguard")

REASONING = PHASES.index("reasoning")

UNWANTED = (b"accept-encoding", b"content-length", b"content-type", b"transfer-encoding", b"range")
"""Headers of the viewer's request that are not passed on to the app."""


@dataclasses.dataclass(frozen=True)
class Token:
    """One generated token: `z` (labels,) is None without a reading that counts."""

    z: tuple[float, ...] | None
    reasoning: bool


class Answer:
    """Asks the app for one chat completion and follows it; `frame` returns the news since the last.

    The app never waits: text that no viewer has taken is held here, at most the whole answer.
    """

    def __init__(self, app: App, watch: Watch) -> None:
        self.id = uuid.uuid4().hex
        self.changed = asyncio.Event()
        self.completion = Completion()
        self.report: Report | None = None
        self.complete = False
        self._app = app
        self._watch = watch
        self._start = time.monotonic()
        self._tokens = 0
        self._pieces: Pieces | None = None
        self._said: Alignment[Token] = Alignment()
        self._thought: Alignment[Token] = Alignment()
        self._separate = False

    async def ask(self, scope: Scope, receive: Receive, path: str) -> None:
        """Send the request that `receive` has the body of; return when the answer is complete."""
        if self._watch.enabled:
            self._pieces = Pieces(self._watch.joint.decode)
        inner = inner_scope(scope, "POST", path) | {OWN: {"id": self.id, "scores": "tokens"}}
        with self._watch.recording(self.id) as reports:
            try:
                await self._app(inner, receive, self._take)
            except Exception as error:
                log.exception("an answer for the page broke off")
                self.completion.fail(f"the server broke off the answer: {_innermost(error)}")
            finally:
                self.report = reports[-1] if reports else None
                self.complete = True
                self.changed.set()

    async def _take(self, message: Message) -> None:
        self.completion.take(message)
        self.changed.set()

    async def frame(self, *, end: bool = False) -> dict[str, Any] | None:
        """Return the text and tokens since the last frame, or None."""
        text, reasoning = self.completion.take_text()
        for token, piece in await self._read(end=end):
            is_apart = token.reasoning and self._separate
            (self._thought if is_apart else self._said).add_token(piece, token)
        self._said.add_text(text)
        self._thought.add_text(reasoning)
        self._separate = self._separate or bool(reasoning)
        spans = [*self._thought.take(end=end), *self._said.take(end=end)]
        if not spans:
            return None
        at = round(1000 * (time.monotonic() - self._start))
        return {"at": at, "spans": [_plain(span) for span in spans]}

    def end(self) -> dict[str, Any]:
        """Return the outcome: the report, the notice as its client gets it, the error."""
        completion, report = self.completion, self.report
        return {
            "finish": completion.finish,
            "notice": completion.notice,
            "error": completion.error,
            "report": None if report is None else _summary(report),
        }

    async def _read(self, *, end: bool) -> list[tuple[Token, str]]:
        """Return the tokens that were read since the last call, and the text of each."""
        if self._pieces is None:
            return []
        if end:
            report = self.report
            tokens = [] if report is None else [(t.id, _of_report(t)) for t in report.tokens]
        else:
            # In a thread: a runtime may have to wait for its device.
            tokens = await asyncio.to_thread(self._live)
        fresh = tokens[self._tokens :]
        self._tokens += len(fresh)
        return [(token, self._pieces.add(number)) for number, token in fresh]

    def _live(self) -> list[tuple[int, Token]]:
        reading = self._watch.live(self.id)
        if reading is None:
            return []
        sinks = reading.attention_sinks
        rows = zip(
            reading.token_ids.tolist(), reading.rows.tolist(), reading.phases.tolist(), strict=True
        )
        return [
            (number, Token(None if place < sinks else _known(z), phase == REASONING))
            for place, (number, z, phase) in enumerate(rows)
        ]


def _of_report(token: Any) -> Token:
    z = None if token.attention_sink else _known(token.z)
    return Token(z, token.phase == "reasoning")


def _known(row: Sequence[float | None]) -> tuple[float, ...] | None:
    """Return a row of finite numbers, None for one that was not read."""
    known = [value for value in row if value is not None and math.isfinite(value)]
    return tuple(known) if known and len(known) == len(row) else None


def _plain(span: Span[Token]) -> list[Any]:
    """Return [text], or [text, z, whether it is reasoning] of a token."""
    if span.token is None:
        return [span.text]
    z = span.token.z
    return [span.text, None if z is None else [round(v, 3) for v in z], span.token.reasoning]


def _summary(report: Report) -> dict[str, Any]:
    """Return a report without its tokens, which went before."""
    plain = dataclasses.replace(report, tokens=()).as_dict()
    return {key: each for key, each in plain.items() if key not in ("tokens", "conversation")}


def _innermost(error: BaseException) -> str:
    """Return the innermost error; task groups wrap errors in groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]


def inner_scope(scope: Scope, method: str, path: str) -> dict[str, Any]:
    """Return the scope of a request to the app, with the key and host of the viewer's own."""
    headers = [pair for pair in scope["headers"] if pair[0].lower() not in UNWANTED]
    headers = with_header(headers, b"content-type", "application/json")
    root = str(scope.get("root_path", ""))
    return {
        **scope,
        "method": method,
        "path": root + path,
        "raw_path": (root + path).encode(),
        "query_string": b"",
        "headers": headers,
    }


async def first_model(app: App, scope: Scope, path: str) -> str | None:
    """Return the name of the first model that the app lists, or None."""
    body = bytearray()

    async def send(message: Message) -> None:
        body.extend(message.get("body", b""))

    try:
        await app(inner_scope(scope, "GET", path), _nothing_more(), send)
        return str(json.loads(body)["data"][0]["id"])
    except Exception:  # noqa: BLE001  (an app without such a list is asked without a name)
        return None


def _nothing_more() -> Receive:
    """Return the `receive` of a request without a body whose client stays connected."""
    waiting: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
    forever: Callable[[], asyncio.Future[Message]] = asyncio.get_running_loop().create_future

    async def receive() -> Message:
        return waiting.pop() if waiting else await forever()

    return receive
