"""500 mixed responses of a real runtime: what users were told, metrics and audit log agree."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import product

import emoguard_llamacpp
import pytest
from emoguard_jsonl import AuditLog
from emoguard_jsonl.key import Key
from emoguard_prometheus import PrometheusExporter

import emoguard
from emoguard import Plan, Policy, Request
from emoguard.notices.policy import NoticePolicy
from emoguard.runtime.session import REQUEST
from emoguard.sinks.policy import AlarmPolicy
from emoguard.testing import AlarmingGuard, make_probe, measure_calibration
from tests.support import tiny_gguf

RESPONSES = 500
WINDOW = 4
PROFILES = ("us_wa_2225", "us_ut_452")
STEERED = Plan(add={"sad": 0.1})


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return tiny_gguf.load(tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "m.gguf", "llama"))


def respond(llm, guard, watch, rng):
    """Let one response happen and return (what it was, its object as the client got it or None)."""
    plan, tokens = rng.choice([None, STEERED]), rng.choice([2, WINDOW + 2])
    fate = rng.choice(["dict", "stream", "broken off", "delivered", "lost"])
    carrier = "server" if fate in ("delivered", "lost") else "process"
    request = Request(conversation=str(rng.randrange(40)), plan=plan, carrier=carrier)
    token = REQUEST.set(request)
    try:
        stream = llm.create_completion(
            rng.choice(["the cat", "a hat in the rain"]), stream=True, max_tokens=tokens, seed=0
        )
        if fate == "broken off":
            next(stream)
            stream.close()
        chunks = list(stream)
    finally:
        REQUEST.reset(token)
    report = watch.reports[-1]
    assert report.id == request.id
    actual = chunks[-1].get("emoguard") if chunks else None
    if carrier == "server":
        assert actual is None
        actual = report.wire()
        (guard.deliver if fate == "delivered" else lambda r, _: guard.lost(r))(report, "field")
    happened = {
        "steered": plan is not None,
        "amplified": report.tokens_scored >= WINDOW,
        "lost": fate in ("broken off", "lost"),
    }
    return report, happened, actual


def test_every_marked_response_is_marked_and_counted_alike_everywhere(llm, tmp_path):
    rng = random.Random(6)
    door = emoguard_llamacpp.open_residuals(llm)
    probe = make_probe(door, ("happy", "sad"), (1, 2, 3))
    calibration = measure_calibration(door, probe)
    notices = NoticePolicy(profiles=PROFILES, amplifying=("happy",))
    policy = Policy(
        alarms=AlarmPolicy(window_tokens=WINDOW), notices=notices, sample_ratio=0.0, keep_reports=9
    )
    model = door.identity.name
    exporter = PrometheusExporter(emotions=probe.labels, model=model, profiles=PROFILES)
    audit = AuditLog(tmp_path / "audit.jsonl", Key.create(tmp_path / "key"))
    shown, lost = Counter(), 0
    with AlarmingGuard(probe, [calibration], policy, [exporter, audit]) as guard:
        with emoguard.attach(llm, guard) as watch:
            for n in range(RESPONSES):
                report, happened, actual = respond(llm, guard, watch, rng)
                notice = report.notice
                for reason in ("steered", "amplified"):
                    marked = notice is not None and reason in notice.reasons
                    assert marked == happened[reason], (report, happened)
                if notice is None:
                    continue
                if happened["lost"]:
                    lost += 1
                else:
                    assert actual["notice"] == notice.wire()
                    shown.update(product(notice.profiles or ("none",), notice.reasons))
                if not n % 100:
                    guard.flush()
        guard.flush()
    audit.close()
    logged, unheard = Counter(), 0
    for line in (tmp_path / "audit.jsonl").read_text().splitlines():
        notice = json.loads(line)["notice"]
        if notice and notice["channel"]:
            logged.update(product(notice["profiles"] or ("none",), notice["reasons"]))
        unheard += bool(notice and not notice["channel"])
    counted = {
        pair: exporter.registry.get_sample_value(
            "emoguard_notices_total",
            {"model": model, "profile": pair[0], "reason": pair[1], "channel": "field"},
        )
        for pair in shown
    }
    assert shown == logged == counted
    undelivered = exporter.registry.get_sample_value("emoguard_notices_undelivered_total")
    assert lost == unheard == undelivered
    assert sum(shown.values()) > 200
    assert lost > 100
    reasons = {reason for _, reason in shown}
    assert reasons == {"start", "steered", "amplified", "undelivered"}
    assert exporter.registry.get_sample_value("emoguard_label_overflow_total") == 0
