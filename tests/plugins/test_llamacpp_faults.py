"""Whatever breaks in EmoGuard while llama.cpp generates, the response stays as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import emoguard_llamacpp
import pytest

from emoguard.guard import Guard
from emoguard.probe import Probe
from emoguard.records import Report
from emoguard.testing import make_probe
from tests import tiny_gguf

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


class BrokenNames:
    """Breaks the first callback phase."""

    def __contains__(self, name: object) -> bool:
        return bool(boom())


BREAKS = {
    "before a decode": lambda watch: setattr(watch.reader, "before", boom),
    "after a decode": lambda watch: setattr(watch.reader, "after", boom),
    "taking the row": lambda watch: setattr(watch.reader, "take", boom),
    "scoring the row": lambda watch: setattr(watch._scores, "add", boom),
    "settling the scores": lambda watch: setattr(watch._scores, "settle", boom),
    "native: copying": lambda watch: setattr(watch.reader, "copy", boom),
    "callback: ask phase": lambda watch: setattr(watch.reader, "heads", BrokenNames()),
    "callback: data phase": lambda watch: setattr(watch.reader, "see", boom),
}


def cases() -> Iterator[tuple[str, str]]:
    for backend in BACKENDS:
        for name in BREAKS:
            if name.partition(":")[0] in (*BACKENDS,) and not name.startswith(backend):
                continue
            yield backend, name


@pytest.mark.parametrize(("backend", "name"), list(cases()))
def test_a_fault_in_reading_leaves_the_response_alone(
    llm: Any, probe: Probe, backend: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = complete(llm)
    with emoguard_llamacpp.attach(llm, Guard(probe), backend) as watch:
        BREAKS[name](watch)
        with caplog.at_level(logging.ERROR, "emoguard"):
            assert [complete(llm), complete(llm)] == [wanted, wanted]
        for report in watch.reports:
            assert_error(report)
        assert len(watch.reports) == 2
    assert [record.name for record in caplog.records] == ["emoguard"], "logged once"
    assert complete(llm) == wanted


def assert_error(report: Report) -> None:
    assert report.status == "error"
    assert "broken on purpose" in str(report.detail)
    assert "reading" in report.faults
    assert report.completion_tokens == 8
    assert not report.scores


class BrokenOnce(Guard):
    """A guard whose first report cannot be made."""

    broken = True

    def report(self, *args: Any, **kwargs: Any) -> Report:
        if self.broken:
            self.broken = False
            boom()
        return super().report(*args, **kwargs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fault_in_closing_becomes_an_error_report(
    llm: Any, probe: Probe, wanted: str, backend: str
) -> None:
    with emoguard_llamacpp.attach(llm, BrokenOnce(probe), backend) as watch:
        assert complete(llm) == wanted
        assert_error(watch.reports[-1])
        assert complete(llm) == wanted
        assert watch.reports[-1].status == "uncalibrated"


class NeverClosing(Guard):
    """A guard that cannot make any report."""

    def report(self, *args: Any, **kwargs: Any) -> Report:
        return boom()  # type: ignore[no-any-return]


def test_a_guard_that_never_reports_disturbs_nothing(llm: Any, probe: Probe, wanted: str) -> None:
    with emoguard_llamacpp.attach(llm, NeverClosing(probe)) as watch:
        assert complete(llm) == wanted
        assert not watch.reports
        assert watch.live() is None
    assert complete(llm) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_was_not_refreshed_makes_the_report_incomplete(
    llm: Any, probe: Probe, wanted: str, backend: str
) -> None:
    with emoguard_llamacpp.attach(llm, Guard(probe), backend) as watch:
        watch.reader.after = lambda _tokens: None
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

    with emoguard_llamacpp.attach(llm, Guard(probe), "callback") as watch:
        see = watch.reader.see
        watch.reader.see = interrupt
        with pytest.raises(KeyboardInterrupt):
            complete(llm)
        assert watch.reports[-1].status == "cancelled"
        watch.reader.see = see
        complete(llm)
        assert watch.reports[-1].status == "uncalibrated"


def test_an_error_of_the_runtime_itself_is_passed_on(llm: Any, probe: Probe, wanted: str) -> None:
    with emoguard_llamacpp.attach(llm, Guard(probe)) as watch:
        with pytest.raises(RuntimeError, match="on purpose"):
            next(llm.generate([5, 6], stopping_criteria=boom))
        report = watch.reports[-1]
        assert (report.status, report.finish) == ("error", "error")
        assert watch.live() is None
        assert complete(llm) == wanted
