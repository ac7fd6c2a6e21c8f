"""Requests outside completions: refused where they generate, else a client's like any other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from emoguard_asgi import EmoGuardMiddleware
from emoguard_vllm.unwatched import UNWATCHED, Unwatched

from emoguard.runtime.session import REQUEST
from emoguard.testing import ListSink
from tests.support.wire import NOTICED, FakeWatch, InnerApp, call, whole


def wrapped(sinks=(), **changes):
    """Return (the app as `vllm serve` has it, its watch, the app inside)."""
    watch = FakeWatch(replace(NOTICED, **changes), sinks)
    inner = InnerApp(watch, whole())
    return EmoGuardMiddleware(Unwatched(inner, watch), watch), watch, inner


@pytest.mark.parametrize("path", [*UNWATCHED, "/root/inference/v1/generate"])
def test_routes_that_could_not_be_watched_are_refused(path):
    app, watch, inner = wrapped()
    answer = call(app, path=path)
    assert (answer.status, answer.json["error"]["code"]) == (501, "not_watched")
    assert "/v1/chat/completions" in answer.json["error"]["message"]
    assert (inner.scopes, watch.requests) == ([], [])


def test_a_generation_on_a_route_that_nobody_knows_is_a_clients_and_its_notice_is_lost():
    sink = ListSink()
    app, watch, _ = wrapped([sink])
    assert call(app, path="/v1/new").json == call(app, path="/v1/new").json
    assert [request.carrier for request in watch.requests] == ["server", "server"]
    assert not watch.guard.outbox.waiting()
    assert watch.guard.flush()
    assert [report.notice.channel for report in sink.reports] == [None, None]
    assert REQUEST.get() is None


def test_completions_and_routes_that_do_not_generate_are_as_before():
    app, watch, inner = wrapped()
    assert call(app).json["emoguard"]["notice"]["kind"] == "ai"
    inner.watch = None
    for path in ("/v1/models", "/v1/responses/resp_1/cancel", "/tokenize"):
        assert call(app, path=path).status == 200
    assert len(watch.requests) == 1
