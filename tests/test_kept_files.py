"""Every file that is kept, and every sink: killed, forked, a full disk, two processes, links."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emoguard_drift import DriftMonitor
from emoguard_jsonl import AuditLog, Key, parts, verify
from emoguard_prometheus import PrometheusExporter
from emoguard_rate import RateMonitor

from emoguard import EmoGuardError, Guard, Policy, Request, keptfile
from emoguard.fit.answers import AnswerFile
from emoguard.fit.store import RowStore
from emoguard.notices.policy import NoticePolicy
from emoguard.probe import artifact
from emoguard.records import LabelScore
from emoguard.runtime.speaker import Generated
from emoguard.sinks.baseline import Baseline
from emoguard.sinks.open import open_sinks
from emoguard.testing import FakeResiduals, make_probe, make_report, make_site, put_reading
from emoguard.testing import make_reading as reading

KEY = Key(bytes(range(32)))
PROBE = make_probe(FakeResiduals())
REPORT = dataclasses.replace(make_report(), scores={"sad": LabelScore(0.1, 1.0, 0.5, 0)})
BASELINE = Baseline(
    "m",
    REPORT.identity,
    REPORT.probe,
    ("sad",),
    1,
    tuple((float(z),) for z in np.random.default_rng(0).normal(size=1000)),
    0.0,
)


@dataclass
class Kept:
    """A kept file: `open` it, `work` on what is open, and `read` what of the work is on disk.

    `saves` says how many pieces of work are saved together.
    """

    open: Callable[[Path], Any]
    work: Callable[[Any], object]
    close: Callable[[Any], object]
    read: Callable[[Path], int]
    saves: int = 1


def audit_lines(path: Path) -> int:
    verdict = verify(parts(path), KEY)
    assert all(finding.kind in ("torn", "cut") for finding in verdict.findings)
    return verdict.last


def open_guard(path: Path) -> Guard:
    guard = Guard(PROBE, policy=Policy(notices=NoticePolicy(("us_ut_452",), state=str(path))))
    guard.open()
    return guard


def respond(guard: Guard) -> None:
    put_reading(guard, reading(), Request(conversation=os.urandom(4).hex()))
    guard.flush()


def conversations(path: Path) -> int:
    guard = open_guard(path)
    guard.close()
    return len(guard.outbox._ledger._histories)


def row_store(path: Path) -> RowStore:
    return RowStore(path, {"model": "m"}, (500, 2, 4))


def add_row(store: RowStore) -> None:
    store.write([int(store.done.sum())], np.ones((1, 2, 4), np.float32))


def rows(path: Path) -> int:
    with row_store(path) as store:
        assert store.rows()[store.done].sum() == 8 * store.done.sum()
        return int(store.done.sum())


def say(file: AnswerFile) -> None:
    file.extend(lambda n: [[Generated([1], [n])]], lambda _: False)


def answers(path: Path) -> int:
    file = AnswerFile(path, {"model": "m"})
    file.close()
    return len(file.answers)


def drift(path: Path) -> DriftMonitor:
    return DriftMonitor(BASELINE, state=path)


def rate(path: Path) -> RateMonitor:
    return RateMonitor({"sad": 0.4}, state=path)


def closed(open_: Callable[[Path], Any], count: Callable[[Any], int]) -> Callable[[Path], int]:
    def read(path: Path) -> int:
        sink = open_(path)
        sink.close()
        assert sink.faults() == 0
        return count(sink)

    return read


KEPT = {
    "audit log": Kept(
        lambda path: AuditLog(path, KEY, fsync_seconds=0),
        lambda log: log.report(REPORT),
        lambda log: log.close(),
        audit_lines,
    ),
    "rate": Kept(
        rate,
        lambda sink: sink.report(REPORT),
        lambda sink: sink.close(),
        closed(rate, lambda sink: sink._responses),
        50,
    ),
    "drift": Kept(
        drift,
        lambda sink: sink.report(REPORT),
        lambda sink: sink.close(),
        closed(drift, lambda sink: int(sink._detector._rows.evidence.any())),
        50,
    ),
    "notices": Kept(open_guard, respond, lambda guard: guard.close(), conversations),
    "work file": Kept(
        lambda path: AnswerFile(path, {"model": "m"}), say, lambda file: file.close(), answers
    ),
    "row store": Kept(row_store, add_row, lambda store: store.close(), rows),
}
LONG_LIVED = pytest.mark.parametrize("name", KEPT)

ONCE: dict[str, Callable[[Path], object]] = {
    "baseline": BASELINE.save,
    "probe": lambda path: artifact.save(path, PROBE),
    "state": lambda path: keptfile.replace(path, "{}" * 100),
}
"""Files that are written at once."""
AT_ONCE = pytest.mark.parametrize("write", ONCE.values(), ids=ONCE)


def in_child(deed: Callable[[], object]) -> int:
    """Run something in a forked child; return 0, or 1 if it raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            deed()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@LONG_LIVED
def test_one_process_holds_a_file_at_a_time_and_the_refusal_names_it(tmp_path, name):
    kept, path = KEPT[name], tmp_path / "f"
    first = kept.open(path)
    with pytest.raises(EmoGuardError, match="is kept by another guard or sink of this process"):
        kept.open(path)
    code = f"from pathlib import Path; from tests.test_kept_files import KEPT; KEPT[{name!r}]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}.open(Path({str(path)!r}))"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"is kept by another process (process {os.getpid()} on " in done.stderr
    kept.work(first)
    kept.close(first)
    kept.close(kept.open(path))
    assert not list(tmp_path.rglob("*.lock"))


@LONG_LIVED
@pytest.mark.parametrize("link", ["file", "folder", "dangling"])
def test_links_lead_to_the_volume_and_both_names_are_one_file(tmp_path, name, link):
    kept, volume, app = KEPT[name], tmp_path / "volume", tmp_path / "app"
    volume.mkdir()
    if link == "folder":
        app.symlink_to(volume)
    else:
        app.mkdir()
        (app / "f").symlink_to(volume / "f")
    if link == "file":
        opened = kept.open(volume / "f")
        kept.work(opened)
        kept.close(opened)
    opened = kept.open(app / "f")
    with pytest.raises(EmoGuardError, match="is kept by"):
        kept.open(volume / "f")
    for _ in range(kept.saves):
        kept.work(opened)
    kept.close(opened)
    assert kept.read(volume / "f")
    assert (app / "f").is_symlink() == (link != "folder")
    assert [p.name for p in app.iterdir() if not p.is_symlink()] == (
        [p.name for p in volume.iterdir()] if link == "folder" else []
    )


@LONG_LIVED
def test_a_forked_child_writes_nothing_and_keeps_nothing_from_others(tmp_path, name):
    kept, path = KEPT[name], tmp_path / "f"
    opened = kept.open(path)
    for _ in range(kept.saves):
        kept.work(opened)

    def use() -> None:
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        for _ in range(kept.saves):
            try:
                kept.work(opened)
            except EmoGuardError as error:
                assert "before this process was forked" in str(error)  # noqa: PT017
        kept.close(opened)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before

    if name not in ("work file", "row store"):  # of commands that do not fork
        assert in_child(use) == 0
    kept.work(opened)
    kept.close(opened)
    assert kept.read(path)


@LONG_LIVED
def test_a_child_that_outlives_its_parent_leaves_the_file_to_the_next(tmp_path, name):
    code = f"""
import os, sys
from pathlib import Path
from tests.test_kept_files import KEPT
opened = KEPT[{name!r}].open(Path({str(tmp_path / "f")!r}))
if os.fork():
    os._exit(0)
print("alive", flush=True)
sys.stdin.read()
os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as orphan:
        assert orphan.stdout.readline() == b"alive\n"
        orphan.wait()
        KEPT[name].close(KEPT[name].open(tmp_path / "f"))
        orphan.stdin.close()


@LONG_LIVED
def test_killed_at_any_moment_it_continues_from_the_saved_state(tmp_path, name):
    kept, path = KEPT[name], tmp_path / "f"
    code = f"""
from pathlib import Path
from tests.test_kept_files import KEPT
kept = KEPT[{name!r}]
opened = kept.open(Path({str(path)!r}))
while True:
    for _ in range(kept.saves):
        kept.work(opened)
    print(flush=True)
"""
    known = 0
    for patience in (1, 3):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as child:
            for _ in range(patience):
                assert child.stdout.readline()
            child.kill()
            child.stdout.read()
        assert child.returncode == -signal.SIGKILL
        actual = kept.read(path)
        assert actual >= min(known + 1, patience) if name != "drift" else actual
        known = actual
    assert not list(tmp_path.rglob("*.aside-*"))


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@LONG_LIVED
def test_a_full_disk_loses_nothing_that_was_saved_and_is_survived(tmp_path, name, monkeypatch):
    kept, path = KEPT[name], tmp_path / "f"
    opened = kept.open(path)
    for _ in range(kept.saves):
        kept.work(opened)
    kept.close(opened)
    before = kept.read(path)
    assert before
    opened = kept.open(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "write", full)
        for _ in range(2 * kept.saves):
            try:
                kept.work(opened)
            except (OSError, EmoGuardError) as error:
                assert "No space left" in str(error)  # noqa: PT017
    for _ in range(kept.saves):
        kept.work(opened)
    kept.close(opened)
    assert kept.read(path) > before if name != "drift" else kept.read(path)


@AT_ONCE
def test_a_replaced_file_is_whole_or_unchanged(tmp_path, write, monkeypatch):
    path = tmp_path / "f"
    path.write_text("before")
    path.chmod(0o640)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises((OSError, EmoGuardError), match="No space left"):
            write(path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    write(path)
    assert path.read_text("latin-1") != "before"
    assert path.stat().st_mode & 0o777 == 0o640


@AT_ONCE
def test_a_replaced_file_is_at_the_end_of_links_and_only_over_files(tmp_path, write):
    (tmp_path / "volume").mkdir()
    (tmp_path / "f").symlink_to(tmp_path / "volume" / "f")
    write(tmp_path / "f")
    assert (tmp_path / "f").is_symlink()
    assert (tmp_path / "volume" / "f").stat().st_size
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((OSError, EmoGuardError), match="wanted a file, got a pipe"):
        write(tmp_path / "pipe")
    with pytest.raises((OSError, EmoGuardError), match="wanted a file, got a device"):
        write(Path("/dev/null"))


@AT_ONCE
def test_it_is_on_disk_before_it_takes_the_place_of_the_old(tmp_path, write, monkeypatch):
    order: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda h: order.append(Path(f"/proc/self/fd/{h}").resolve().name) or fsync(h)
    )
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("renamed") or rename(a, b))
    write(tmp_path / "f")
    assert [name.partition(".part")[0] for name in order] == ["f", "renamed", tmp_path.name]


def test_a_link_planted_in_the_place_of_the_new_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with keptfile.replacing(tmp_path / "f") as part:
        pass
    part.symlink_to(victim)
    keptfile.replace(tmp_path / "f", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "f").read_text() == "new"


def test_a_lock_whose_file_was_deleted_is_not_shared(tmp_path):
    first = keptfile.Lock(tmp_path / "f")
    first.release()
    second, third = keptfile.Lock(tmp_path / "f"), tmp_path / "f.lock"
    assert third.exists()
    with pytest.raises(keptfile.HeldError):
        keptfile.Lock(tmp_path / "f")
    second.release()
    first.release()
    assert not third.exists()


def test_asides_are_never_written_over(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / "f").write_text(str(number))
        keptfile.set_aside(tmp_path / "f")
    assert [(tmp_path / f"f.aside-{n}").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]


class FullSink:
    """A sink that cannot be closed."""

    @classmethod
    def from_policy(cls, site):
        return cls()

    def report(self, report):
        return ()

    def close(self):
        full()


def test_a_sink_that_cannot_be_closed_ends_no_block(tmp_path, monkeypatch, caplog):
    key = tmp_path / "key"
    Key.create(key)
    log = {"path": str(tmp_path / "a"), "key_file": str(key)}
    site = make_site(
        Policy.parse({"sinks": [{"jsonl": log}, {"rate": {"state": str(tmp_path / "r")}}]})
    )
    with ExitStack() as stack:
        audit, monitor = stack.enter_context(open_sinks(site))
        audit.report(REPORT)
        monkeypatch.setattr(os, "fsync", full)
    assert "sinks.0.jsonl could not be closed" in caplog.text
    assert "No space left" in caplog.text
    assert monitor.faults() == 1
    monkeypatch.undo()
    AuditLog(tmp_path / "a", Key.load(key)).close()


def test_every_sink_of_a_guard_stops_in_a_forked_child_and_is_counted(tmp_path, caplog):
    sinks = [
        AuditLog(tmp_path / "a", KEY), rate(tmp_path / "r"), drift(tmp_path / "d"),
        PrometheusExporter(emotions=["sad"], model="fake"),
    ]  # fmt: skip
    with Guard(PROBE, sinks=sinks) as guard:

        def use() -> None:
            guard.outbox.put(REPORT, Request(), str)
            actual = guard.outbox.put(REPORT, Request(), str).faults
            assert sorted(actual) == sorted(f"sink:{type(sink).__name__}" for sink in sinks)
            assert caplog.text.count("before this process was forked") == len(sinks)

        assert in_child(use) == 0
        guard.outbox.put(REPORT, Request(), str)
        assert guard.flush()
        assert sinks[0].lines == 1
    for sink in sinks:
        sink.close()


@pytest.mark.parametrize("setting", [-1e8, 1e8])
def test_no_state_is_lost_or_refused_when_the_clock_was_set(tmp_path, setting, monkeypatch):
    import time

    for kept, path in ((each, tmp_path / name) for name, each in KEPT.items()):
        opened = kept.open(path)
        for _ in range(kept.saves):
            kept.work(opened)
        kept.close(opened)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + setting)
    for kept, path in ((each, tmp_path / name) for name, each in KEPT.items()):
        assert kept.read(path)
        opened = kept.open(path)
        kept.work(opened)
        kept.close(opened)
        assert kept.read(path)
