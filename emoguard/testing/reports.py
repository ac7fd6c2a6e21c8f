"""Makes readings, sessions and reports of every kind without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from emoguard import summary
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Notice, Report, Request
from emoguard.runtime.reading import Reading
from emoguard.runtime.session import Session
from emoguard.site import Site
from emoguard.testing.fakes import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe


def make_reading(tokens: int = 40, labels: int = 2, seed: int = 0, **changes: Any) -> Reading:
    """Return a reading of normal rows on the fake model, fields changed as given."""
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "identity": FAKE_IDENTITY,
        "backend": "fake",
        "rows": rng.normal(size=(tokens, labels)).astype(np.float32),
        "token_ids": np.arange(tokens, dtype=np.int64),
        "phases": np.array([0] * min(tokens, 1) + [2] * (tokens - 1), np.uint8),
        "finish": "stop",
    }
    return Reading(**(fields | changes))


def make_session(request: Request, text: str = "", tokens: int = 40) -> Session:
    """Return a session on the fake model that generated `text` in `tokens` tokens."""
    session = Session(request, make_site(), "fake", decode=lambda _: text)
    for token, row in enumerate(make_reading(tokens).rows):
        session.commit(token, row)
    return session


def put_reading(
    guard: Guard,
    reading: Reading,
    request: Request | None = None,
    decode: Callable[[], str] = str,
) -> Report:
    """Report a reading through `guard`, as a watch does at the end of a response."""
    request = request or Request()
    report = summary.report(reading, request, guard.site(reading.identity))
    report = guard.outbox.put(report, request, decode)
    guard.refresh()
    return report


def make_report(
    request: Request | None = None, *, calibrated: bool = True, **changes: Any
) -> Report:
    """Return a report over two labels of the fake model; `changes` are those of `make_reading`."""
    return summary.report(
        make_reading(**changes), request or Request(), make_site(calibrated=calibrated)
    )


def make_site(policy: Policy | None = None, *, calibrated: bool = False) -> Site:
    """Return a site of a random probe on the fake model; sinks can be opened for it."""
    probe = make_probe(FakeResiduals())
    known = [make_calibration(probe, FAKE_IDENTITY)] if calibrated else []
    return Guard(probe, known, policy).site(FAKE_IDENTITY, "fake")


def every_kind_of_report() -> list[Report]:
    """Return one report of each status and shape, without and with one row per token."""
    kinds: list[dict[str, Any]] = [
        {},
        {"calibrated": False},
        {"tokens": 0},
        {"tokens": 3},
        {"fault": "RuntimeError: broken"},
        {"skipped": "beam search"},
        {"finish": "cancelled"},
        {"rows": np.full((4, 2), np.nan, np.float32), "tokens": 4},
        {"phases": np.full(4, 1, np.uint8), "tokens": 4},
        {"attention_sinks": 2},
    ]
    requests = (Request(), Request(conversation="c", scores="tokens", denied=("plan",)))
    reports = [make_report(request, **kind) for kind in kinds for request in requests]
    delivered = Notice(
        "ai", ("start", "claim"), ("eu_art50",), "An AI system.", 1, "en", channel="field"
    )
    lost = replace(delivered, reasons=("steered",), profiles=(), text="", channel=None)
    return [*reports, *(replace(reports[0], notice=notice) for notice in (delivered, lost))]
