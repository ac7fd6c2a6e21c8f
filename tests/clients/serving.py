"""A server in this process, and a record of what the app inside sent in each request."""

import contextlib
import json
import threading
import time

import uvicorn

from tests.support.wire import start


class Up:
    """A server that runs."""

    def __init__(self, server):
        self._server = server
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def busy(self):
        """Return whether a request is being answered."""
        return bool(self._server.server_state.tasks)

    def drop(self):
        """Break every connection off, as a process that dies does."""
        loop = self._server.servers[0].get_loop()
        for connection in list(self._server.server_state.connections):
            loop.call_soon_threadsafe(connection.transport.abort)


class Recorder:
    """Stands between the middleware and the app: keeps the text of every answer, by prompt."""

    def __init__(self, app):
        self._app = app
        self.bodies = {}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, sent = [], []

        async def reading():
            message = await receive()
            body.append(message.get("body", b""))
            return message

        async def writing(message):
            sent.append(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, reading, writing)
        finally:
            with contextlib.suppress(ValueError):
                self.bodies[prompt_of(json.loads(b"".join(body)))] = b"".join(sent)

    def text(self, prompt):
        """Return what the app said to `prompt`."""
        raw = self.bodies[prompt].decode()
        if not raw.startswith("data:"):
            return said(json.loads(raw))
        lines = [line for line in raw.split("\n") if line.startswith("data: {")]
        return "".join(said(json.loads(line.removeprefix("data: "))) for line in lines)


def prompt_of(body):
    """Return what the user said."""
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def said(actual):
    """Return the text of a body or a chunk."""
    choice = actual["choices"][0]
    speech = choice.get("message", choice.get("delta"))
    return choice["text"] if speech is None else speech.get("content") or ""


class ScriptedApp:
    """Answers with text that is hard to carry, in the form that was body for; no model."""

    def __init__(self, watch):
        self._watch = watch

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        body = json.loads((await receive())["body"])
        prompt = prompt_of(body)
        pieces = ["", "He", "llo ✓ ", "data: [DONE]\n\n", '{"emoguard":', " }\r\n", f"“{prompt}”"]
        self._watch.generate()
        if body.get("stream"):
            await self._stream(pieces, body, send)
        else:
            await self._whole("".join(pieces), send)

    async def _whole(self, text, send):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        content = _object("chat.completion", choice | {"finish_reason": "stop"})
        content["usage"] = {"prompt_tokens": 1, "completion_tokens": 6, "total_tokens": 7}
        await send(start("application/json"))
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    async def _stream(self, pieces, body, send):
        chat = "messages" in body
        kind = "chat.completion.chunk" if chat else "text_completion"
        await send(start("text/event-stream"))
        choices = [
            {"index": 0, **({"delta": {"content": p}} if chat else {"text": p})} for p in pieces
        ]
        if chat:
            choices.insert(0, {"index": 0, "delta": {"role": "assistant"}})
        choices = [{**each, "logprobs": None, "finish_reason": None} for each in choices]
        end = {"index": 0, "finish_reason": "stop", **({"delta": {}} if chat else {"text": ""})}
        for choice in [*choices, end]:
            line = f"data: {json.dumps(_object(kind, choice))}\n\n".encode()
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _object(kind, choice):
    return {"id": "x-1", "object": kind, "created": 1, "model": "served", "choices": [choice]}


@contextlib.contextmanager
def serving(app, port=0):
    """Serve `app` on a loopback port, by default a free one, from a thread; yields what runs."""
    config = uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="serving")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield Up(server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
