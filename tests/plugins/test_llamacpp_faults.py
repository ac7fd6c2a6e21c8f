"""Whatever breaks in EmoGuard while llama.cpp generates, the response stays as it was."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import emoguard_llamacpp
import numpy as np
import pytest

import emoguard
from emoguard import summary
from emoguard.guard import Guard
from emoguard.probe.probe import Probe
from emoguard.records import Report
from emoguard.testing import make_probe
from tests.support import tiny_gguf
from tests.support.interrupts import Armed, LateError, Signals, handling, then

BACKENDS = ("native", "callback")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("gguf") / "llama.gguf"
    return tiny_gguf.load(tiny_gguf.write(path, "llama"))


@pytest.fixture
def probe(llm: Any) -> Probe:
    return make_probe(emoguard_llamacpp.open_residuals(llm), ("happy", "sad"), (1, 2))


def complete(llm: Any) -> str:
    llm.reset()
    answer = llm.create_completion("the hat", max_tokens=8, temperature=0.0)
    return str(answer["choices"][0]["text"])


@pytest.fixture
def wanted(llm: Any) -> str:
    return complete(llm)


def boom(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError("broken on purpose")


BREAKS = {
    "before a decode": lambda watch: setattr(watch.joint.head.reader, "before", boom),
    "after a decode": lambda watch: setattr(watch.joint.head.reader, "after", boom),
    "taking the row": lambda watch: setattr(watch.joint.head.reader, "take", boom),
    "scoring the row": lambda watch: setattr(watch.joint.head.scores, "add", boom),
    "settling the scores": lambda watch: setattr(watch.joint.head.scores, "settle", boom),
    "native: copying": lambda watch: setattr(watch.joint.head.reader, "copy", boom),
    "callback: copying": lambda watch: setattr(watch.joint.head.reader, "see", boom),
}


def cases(places: Iterable[str]) -> Iterator[tuple[str, str]]:
    for backend in BACKENDS:
        for name in places:
            if name.partition(":")[0] in (*BACKENDS,) and not name.startswith(backend):
                continue
            yield backend, name


@pytest.mark.parametrize(("backend", "name"), list(cases(BREAKS)))
def test_a_fault_in_reading_leaves_the_response_alone(
    llm: Any, probe: Probe, backend: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = complete(llm)
    with emoguard.attach(llm, Guard(probe), backend=backend) as watch:
        BREAKS[name](watch)
        with caplog.at_level(logging.ERROR, "emoguard"):
            assert [complete(llm), complete(llm)] == [wanted, wanted]
        for report in watch.reports:
            assert_error(report)
        assert len(watch.reports) == 2
    errors = [record.name for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["emoguard"], "logged once"
    assert complete(llm) == wanted


def assert_error(report: Report) -> None:
    assert report.status == "error"
    assert "broken on purpose" in str(report.detail)
    assert "reading" in report.faults
    assert report.completion_tokens == 8
    assert not report.scores


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fault_in_closing_becomes_an_error_report(
    llm: Any, probe: Probe, wanted: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = summary.report, iter([boom])

    def broken_once(*args: Any) -> Report:
        return next(calls, plain)(*args)

    monkeypatch.setattr(summary, "report", broken_once)
    with emoguard.attach(llm, Guard(probe), backend=backend) as watch:
        assert complete(llm) == wanted
        assert_error(watch.reports[-1])
        assert complete(llm) == wanted
        assert watch.reports[-1].status == "uncalibrated"


def test_a_report_that_cannot_be_made_disturbs_nothing(
    llm: Any, probe: Probe, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "report", boom)
    with emoguard.attach(llm, Guard(probe)) as watch:
        assert complete(llm) == wanted
        assert not watch.reports
        assert watch.live() is None
    assert complete(llm) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_was_not_refreshed_makes_the_report_incomplete(
    llm: Any, probe: Probe, wanted: str, backend: str
) -> None:
    with emoguard.attach(llm, Guard(probe), backend=backend) as watch:
        watch.joint.head.reader.after = lambda _tokens: None
        assert complete(llm) == wanted
        report = watch.reports[-1]
        assert (report.status, report.tokens_scored, report.completion_tokens) == (
            "incomplete",
            0,
            8,
        )
        assert not report.scores


def test_an_interrupt_inside_the_callback_stops_the_generation(llm: Any, probe: Probe) -> None:
    def interrupt(_tensor: int) -> None:
        raise KeyboardInterrupt

    with emoguard.attach(llm, Guard(probe), backend="callback") as watch:
        see = watch.joint.head.reader.see
        watch.joint.head.reader.see = interrupt
        with pytest.raises(KeyboardInterrupt):
            complete(llm)
        assert watch.reports[-1].status == "cancelled"
        watch.joint.head.reader.see = see
        complete(llm)
        assert watch.reports[-1].status == "uncalibrated"


def test_an_error_of_the_runtime_itself_is_passed_on(llm: Any, probe: Probe, wanted: str) -> None:
    with emoguard.attach(llm, Guard(probe)) as watch:
        with pytest.raises(RuntimeError, match="on purpose"):
            next(llm.generate([5, 6], stopping_criteria=boom))
        report = watch.reports[-1]
        assert (report.status, report.finish) == ("error", "error")
        assert watch.live() is None
        assert complete(llm) == wanted


# Interrupts: whatever comes from outside belongs to the caller, wherever it arrives.


def at_callback(number: int, kind: type[BaseException]) -> Any:
    """Raise `kind` where the Python of the evaluation callback begins for the `number`-th time."""
    count = 0

    def look(frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_name == "_answer":
            count += 1
            if count == number:
                raise kind

    return look


@contextmanager
def profiled(look: Any) -> Iterator[None]:
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


def whole(llm: Any, probe: Probe, watch: Any, wanted: str) -> None:
    """Assert that the next reply, and its reading, are right."""
    assert complete(llm) == wanted
    report = watch.reports[-1]
    assert (report.status, report.tokens_scored) == ("uncalibrated", 8)


# A pass of the tiny model asks about 186 nodes and shows two of them.
ENTRIES = (1, 2, 3, 40, 41, 77, 78, 79, 120, 186, 187, 188, 189, 190, 400, 801, 1202)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, LateError])
@pytest.mark.parametrize("number", ENTRIES)
def test_an_interrupt_at_any_entry_of_the_callback_reaches_the_caller(
    llm: Any, probe: Probe, wanted: str, number: int, kind: type[BaseException]
) -> None:
    with emoguard.attach(llm, Guard(probe), backend="callback") as watch:
        with pytest.raises(kind), profiled(at_callback(number, kind)):
            complete(llm)
        assert watch.reports[-1].status == "cancelled"
        whole(llm, probe, watch, wanted)
    assert complete(llm) == wanted


PENDING = {
    "before a decode": ("reader", "before"),
    "after a decode": ("reader", "after"),
    "taking the row": ("reader", "take"),
    "scoring the row": ("scores", "add"),
    "native: copying": ("reader", "copy"),
    "callback: copying": ("reader", "see"),
}


@pytest.mark.parametrize(("backend", "name"), list(cases(PENDING)))
def test_an_interrupt_in_reading_reaches_the_caller(
    llm: Any, probe: Probe, wanted: str, backend: str, name: str
) -> None:
    owner, attribute = PENDING[name]
    with emoguard.attach(llm, Guard(probe), backend=backend) as watch:
        part = getattr(watch.joint.head, owner)
        plain = getattr(part, attribute)
        setattr(part, attribute, then(plain, LateError))
        with pytest.raises(LateError):
            complete(llm)
        assert watch.reports[-1].status == "cancelled"
        setattr(part, attribute, plain)
        whole(llm, probe, watch, wanted)


def test_a_signal_handlers_exception_in_the_callback_reaches_the_caller(
    llm: Any, probe: Probe, wanted: str
) -> None:
    def stop(*_: Any) -> None:
        raise TimeoutError("too late")

    with emoguard.attach(llm, Guard(probe), backend="callback") as watch, handling(stop):
        see = watch.joint.head.reader.see
        watch.joint.head.reader.see = lambda tensor: (
            see(tensor),
            signal.raise_signal(signal.SIGALRM),
        )
        with pytest.raises(TimeoutError, match="too late"):
            complete(llm)
        assert watch.reports[-1].status == "cancelled"
        watch.joint.head.reader.see = see
        whole(llm, probe, watch, wanted)


def test_a_long_prompt_is_left_at_the_pass_that_was_interrupted(
    llm: Any, probe: Probe, wanted: str
) -> None:
    with emoguard.attach(llm, Guard(probe), backend="callback") as watch:
        llm.reset()
        with (
            pytest.raises(LateError),
            profiled(at_callback(5, LateError)),
            with_batches_of(llm, 16),
        ):
            llm.eval(list(range(90, 154)))
        assert llm.n_tokens == 16
        whole(llm, probe, watch, wanted)


@contextmanager
def with_batches_of(llm: Any, tokens: int) -> Iterator[None]:
    before, llm.n_batch = llm.n_batch, tokens
    try:
        yield
    finally:
        llm.n_batch = before


def test_a_callback_that_died_is_replaced_and_its_pass_is_not_used(
    llm: Any, probe: Probe, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    armed, signals, number = Armed(LateError), Signals(), signal.SIGALRM
    with emoguard.attach(llm, Guard(probe), backend="callback") as watch:
        see = watch.joint.head.reader.see
        watch.joint.head.reader.see = lambda tensor: (see(tensor), 0 in armed, number in signals)
        with pytest.raises(KeyboardInterrupt), handling(signal.default_int_handler):
            complete(llm)
        assert lost, "the callback did not die: this tests nothing"
        watch.joint.head.reader.see = see
        whole(llm, probe, watch, wanted)
    assert complete(llm) == wanted


@pytest.mark.parametrize("number", [1, 60, 120])
def test_an_interrupt_of_attaching_leaves_the_model_as_it_was(
    llm: Any, probe: Probe, wanted: str, number: int
) -> None:
    attributes = set(vars(llm))
    with pytest.raises(LateError), profiled(at_callback(number, LateError)):
        emoguard.attach(llm, Guard(probe), backend="callback")
    assert set(vars(llm)) == attributes
    assert complete(llm) == wanted
    with emoguard.attach(llm, Guard(probe), backend="callback") as watch:
        whole(llm, probe, watch, wanted)


@pytest.mark.parametrize("number", [1, 2, 50, 100])
def test_an_interrupt_at_the_offline_door_reaches_the_caller(llm: Any, number: int) -> None:
    door = emoguard_llamacpp.open_residuals(llm, "callback")
    ids = door.tokenize("the rain")
    right = door.residuals(ids, (1, 2))

    def pool() -> Any:
        with door.pooling((1, 2), texts=2, tokens=64) as run:
            return run([ids, ids], [1, 1])

    means = pool()
    for action, result in ((lambda: door.residuals(ids, (1, 2)), right), (pool, means)):
        with pytest.raises(LateError), profiled(at_callback(number, LateError)):
            action()
        assert np.array_equal(action(), result)
