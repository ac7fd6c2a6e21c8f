"""Rows travel with their tokens; whatever breaks on the way costs rows, never the engine."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emoguard_vllm import outputs
from emoguard_vllm.wire import Carried, Step

ROWS = np.arange(10, dtype=np.float32).reshape(2, 5)


def output(**carried: Any) -> Any:
    return SimpleNamespace(request_id="r", new_token_ids=[7, 8], kv_transfer_params=carried or None)


def forwarded(each: Any, step: Any) -> Any:
    """Pass an output through the EngineCore's wrapper; return what vLLM would get."""
    groups = {0: SimpleNamespace(outputs=[each])}
    ran = SimpleNamespace(emoguard=step)
    result = outputs.forward(lambda *_: groups, None, None, ran)
    assert result is groups
    return each


def test_rows_arrive_with_their_tokens_and_are_taken_out_again() -> None:
    step = Step(ROWS, {"r": range(2)}, None, {})
    sent = forwarded(output(other=1), step)
    assert np.array_equal(outputs.take(sent).rows, ROWS)
    assert sent.kv_transfer_params == {"other": 1}
    assert outputs.take(sent) is None


@pytest.mark.parametrize("part", ["carried", "pack"])
def test_rows_that_cannot_be_sent_are_dropped_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError(f"broken on purpose: {part}")

    monkeypatch.setattr(Step if part == "carried" else Carried, part, broken)
    with caplog.at_level(logging.ERROR, "emoguard"):
        for _ in range(3):
            sent = forwarded(output(), Step(ROWS, {"r": range(2)}, None, {}))
            assert sent.kv_transfer_params is None
    assert [record.message for record in caplog.records] == [
        f"rows were lost on their way (logged once): RuntimeError: broken on purpose: {part}"
    ]


@pytest.mark.parametrize("packed", [b"no rows", [], [3, b"12345", None, None], None])
def test_rows_that_cannot_be_read_are_dropped(packed: Any) -> None:
    sent = output(emoguard=packed)
    assert outputs.take(sent) is None
    assert sent.kv_transfer_params is None


def test_a_detached_watch_and_a_state_that_takes_no_note_disturb_nothing() -> None:
    sent = output(emoguard=b"no rows")
    assert outputs.strip(lambda _, each: each, None, [sent]) == [sent]
    assert outputs.note_finish(lambda *args: args[1:], object(), [7], None, "stop") == (
        [7],
        None,
        "stop",
    )
