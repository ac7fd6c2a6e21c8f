"""Health routes answer who runs the server, and no web page."""

import asyncio

import pytest
from emoguard_asgi import Health

from tests.support.wire import Exchange

LOCAL = [(b"host", b"127.0.0.1:8000")]


def ask(path, headers=LOCAL, method="GET", ready=True, hosts=()):
    """Send one request; an app behind would answer 299."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(Health(app, lambda: ready, hosts)(scope, None, send))
    return Exchange(sent)


def test_healthz_answers_while_the_process_serves():
    assert ask("/healthz", ready=False).json == {"status": "ok"}


def test_readyz_answers_while_it_is_ready():
    assert (ask("/readyz").status, ask("/readyz", ready=False).status) == (200, 503)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/healthz/x", "/metrics"])
def test_every_other_path_is_the_apps(path):
    assert ask(path, headers=[(b"host", b"evil.example")]).status == 299


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "127.0.0.1", "10.1.2.3:8000", "[::1]:8000", "known.example"],
)
def test_addresses_localhost_and_known_names_are_served(host):
    headers = [(b"host", host.encode())]
    assert ask("/healthz", headers, hosts=["Known.example"]).status == 200


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_other_names_are_refused(host):
    headers = [] if host is None else [(b"host", host.encode())]
    answer = ask("/readyz", headers)
    assert answer.status == 403
    assert answer.json["error"]["code"] == "forbidden"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("http://127.0.0.1:9000", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
def test_pages_of_other_sites_are_refused(origin, status):
    assert ask("/healthz", [*LOCAL, (b"origin", origin.encode())]).status == status


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 405)])
def test_health_is_only_read(method, status):
    assert ask("/healthz", method=method).status == status
