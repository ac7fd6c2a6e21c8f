"""Reads an OpenAI-compatible app's answer to one chat completion: its text, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from emoguard_asgi import events
from emoguard_asgi.asgi import Message, header

from emoguard import wire

LARGEST = 4 * 1024 * 1024
"""Bytes of an answer that are read; of a longer one the rest is not shown."""


class Completion:
    """Takes the messages of an app that answers a chat, as a client would.

    `text` and `reasoning` hold the news since they were last taken; `finish`, `notice` and `error`
    are known at the end. Never waits, and holds at most 4 MiB.
    """

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.finish: str | None = None
        self.notice: dict[str, Any] | None = None
        self.error: str | None = None
        self._status = 0
        self._streams = False
        self._events = events.Events()
        self._body = bytearray()
        self._taken = 0

    def take(self, message: Message) -> None:
        """Take one message of the app."""
        if message["type"] == "http.response.start":
            kind = header(message.get("headers", ()), b"content-type") or ""
            self._status = message["status"]
            self._streams = self._status == 200 and kind.startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self._add(message.get("body", b""))
            if not message.get("more_body", False):
                self._end()

    def take_text(self) -> tuple[str, str]:
        """Return the text and the reasoning that came since the last call."""
        taken = self.text, self.reasoning
        self.text = self.reasoning = ""
        return taken

    def fail(self, why: str) -> None:
        """Record an error; the first one stays."""
        self.error = self.error or why

    def _add(self, part: bytes) -> None:
        self._taken += len(part)
        if self._taken > LARGEST:
            self.fail(f"the answer has more than {LARGEST:,} bytes: the rest is not shown")
        elif self._streams:
            for event in self._events.feed(part):
                self._read(events.data(event))
        else:
            self._body += part

    def _end(self) -> None:
        if self._streams:
            self._read(events.data(self._events.rest()))
        elif self._taken <= LARGEST:
            self._read(bytes(self._body))
        if self._status != 200:
            self.fail(f"the server answered with status {self._status}")

    def _read(self, data: bytes) -> None:
        """Read one chunk of a stream, or a whole body."""
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):  # [DONE], a ping, or nothing of ours
            return
        if not isinstance(chunk, dict):
            return
        if "error" in chunk:
            self.fail(_message(chunk["error"]))
        own = chunk.get(wire.KEY)
        if isinstance(own, dict) and isinstance(own.get("notice"), dict):
            self.notice = own["notice"]
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._say(choice)

    def _say(self, choice: Mapping[str, Any]) -> None:
        speech = choice.get("delta") or choice.get("message") or {}
        if not isinstance(speech, dict):
            return
        self.text += _text(speech.get("content"))
        self.reasoning += _text(speech.get("reasoning_content") or speech.get("reasoning"))
        if choice.get("finish_reason") is not None:
            self.finish = str(choice["finish_reason"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _message(error: Any) -> str:
    """Return the words of an error in OpenAI's shape, or in any other."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:1000]
