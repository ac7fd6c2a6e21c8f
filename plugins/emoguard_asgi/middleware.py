"""Adds notices and scores to the answers of an OpenAI-compatible app."""

from __future__ import annotations

from emoguard.errors import EmoGuardError
from emoguard.runtime.session import REQUEST
from emoguard.runtime.watch import Watch
from emoguard_asgi.asgi import App, Message, Receive, Scope, Send, header, with_header
from emoguard_asgi.client import Client, LeftError
from emoguard_asgi.delivery import NoticeDelivery, standing_kind
from emoguard_asgi.error import RefusedError, refuse
from emoguard_asgi.gate import Gate, Keys
from emoguard_asgi.request import OWN, CompletionRequest, parse_request
from emoguard_asgi.responder import Responder, marked

ROUTES = "/completions"
"""Ending of the paths of completions: chat, plain, and a server's aliases of them."""

BODILESS = ("GET", "HEAD", "OPTIONS")
"""Methods whose requests have no body that an app would read; browsers send `OPTIONS` keyless."""

UNWANTED = (b"accept-encoding", b"transfer-encoding")
"""Headers withheld from the app: nothing could be added to a compressed answer, and the body is
whole by then."""

MIB = 1024 * 1024


class EmoGuardMiddleware:
    """Wraps an ASGI app whose completions are generated, in this process, under `watch`.

    Answers of completion routes carry the `emoguard` object where there is something to tell: JSON
    bodies, and the chunks of a stream that end a choice. All answers carry the header
    `x-emoguard-notice` while the policy follows a profile. Not a byte of anything else is changed,
    and no chunk waits for another. EmoGuard's part of a request is taken out of its body before the
    app sees it, and granted as far as the policy allows.

    With an `api_key`, or several, a completion without such a bearer token is answered 401 from its
    headers alone, before a byte of its body is read. A body has at most `max_body_bytes` (else 413)
    and arrives within `body_seconds` (else 408); those of all requests that are not answered yet
    have at most eight times `max_body_bytes` together (else 503). `every_route` holds the requests
    of all routes to the key and these limits, but for GET, HEAD and OPTIONS. Where
    `EMOGUARD_DISABLE=1` made the watch an empty one, everything passes.

    Raises:
        EmoGuardError: a key that is empty, a limit that is not positive.

    """

    def __init__(
        self,
        app: App,
        watch: Watch,
        *,
        api_key: Keys = None,
        max_body_bytes: int = 16 * MIB,
        body_seconds: float = 60,
        every_route: bool = False,
    ) -> None:
        self._app = app
        self._watch = watch
        self._gate = Gate(api_key, max_body_bytes, body_seconds)
        self._every_route = every_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; everything but HTTP passes."""
        if scope["type"] != "http" or not self._watch.enabled:
            await self._app(scope, receive, send)
        elif _completes(scope) or (self._every_route and scope["method"] not in BODILESS):
            await self._admit(scope, receive, send)
        else:
            await self._app(scope, receive, self._marking(send))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body if its headers may pass, and let the app answer; else refuse."""
        async with Client(receive, self._gate) as client:
            try:
                self._gate.check(scope["headers"])
                completion = await self._parse(scope, client) if _completes(scope) else None
                client.replay(await client.read() if completion is None else completion.body)
            except LeftError:
                return
            except RefusedError as error:
                await refuse(self._marking(send), error)
                return
            if completion is None:
                await self._app(scope, client.receive, self._marking(send))
            else:
                await self._answer(scope, client, completion, send)

    async def _parse(self, scope: Scope, client: Client) -> CompletionRequest:
        """Read EmoGuard's part of a request, as far as the policy grants it.

        Raises:
            RefusedError: a compressed body, one beyond the limits, a malformed object, or a plan
                that cannot be applied. LeftError: the client disconnected before the end of the
                body.

        """
        encoding = header(scope["headers"], b"content-encoding") or "identity"
        if encoding.strip().lower() != "identity":
            what = f"wanted a plain body, got content-encoding {encoding}: send it uncompressed"
            raise RefusedError(415, what, code="unsupported_encoding")
        body = await client.read()
        guard = self._watch.guard
        guard.refresh()
        try:
            completion = parse_request(body, scope["headers"], guard.policy, scope.get(OWN))
            if completion.request.plan is not None:
                # Checked here: by the time the model refuses it, a stream has begun.
                self._watch.check_plan(completion.request.plan)
        except EmoGuardError as error:
            raise RefusedError(
                400, str(error), param="emoguard", code="invalid_emoguard"
            ) from error
        return completion

    async def _answer(
        self, scope: Scope, client: Client, completion: CompletionRequest, send: Send
    ) -> None:
        with self._watch.recording(completion.request.call) as reports:
            delivery = NoticeDelivery(self._watch, completion, reports)
            responder = Responder(send, client, delivery)
            token = REQUEST.set(completion.request)
            try:
                await self._app(_for_server(scope, completion), client.receive, responder.send)
            finally:
                REQUEST.reset(token)
                delivery.end(complete=responder.complete)

    def _marking(self, send: Send) -> Send:
        async def marking(message: Message) -> None:
            starts = message["type"] == "http.response.start"
            await send(marked(message, standing_kind(self._watch)) if starts else message)

        return marking


def _completes(scope: Scope) -> bool:
    return scope["method"] == "POST" and str(scope["path"]).endswith(ROUTES)


def _for_server(scope: Scope, completion: CompletionRequest) -> Scope:
    """Return the scope for the app: the length of its body, and an answer that can be read."""
    length = str(len(completion.body))
    headers = [pair for pair in scope["headers"] if pair[0].lower() not in UNWANTED]
    return {**scope, "headers": with_header(headers, b"content-length", length)}
