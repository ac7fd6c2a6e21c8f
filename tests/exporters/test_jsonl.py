"""The audit log as a sink: what a line says, restarts, rotation, faults of the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from importlib.metadata import entry_points
from pathlib import Path

import jsonschema
import pytest
from emoguard_jsonl import AuditLog, Key, parts, read_head, verify

from emoguard import EmoGuardError, Guard, Policy, Report, Request
from emoguard.clock import Moment
from emoguard.records import LabelScore, Receipt
from emoguard.sinks.open import open_sinks
from emoguard.site import Site
from emoguard.testing import (
    FakeResiduals,
    check_sink,
    every_kind_of_report,
    make_probe,
    make_reading,
    make_report,
    make_site,
    put_reading,
)

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"
KEY = Key(bytes(range(32)))
REPORT = make_report(Request(id="r"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def written(path: Path, count: int, **options) -> AuditLog:
    """Append `count` reports and close."""
    log = AuditLog(path, KEY, **options)
    for n in range(count):
        log.report(dataclasses.replace(REPORT, id=f"r{n}"))
    log.close()
    return log


@contextlib.contextmanager
def opened(path: Path, **options):
    log = AuditLog(path, KEY, **options)
    yield log
    log.close()


def killed(path: Path, count: int) -> None:
    """Append `count` reports and die: the end of the log is noted only once a second."""
    written(path, count)
    shutil.rmtree(f"{path}.state")


def lines(path: Path) -> list[dict]:
    return [json.loads(raw) for part in parts(path) for raw in part.read_bytes().splitlines()]


def test_it_is_a_conforming_sink(path):
    check_sink(lambda: AuditLog(path, KEY))
    assert verify(parts(path), KEY, lines=len(every_kind_of_report())).findings == []


def test_the_entry_point_names_it():
    (point,) = entry_points(group="emoguard.exporters", name="jsonl")
    assert point.load() is AuditLog


@pytest.mark.parametrize("report", every_kind_of_report(), ids=lambda r: f"{r.status}")
def test_a_line_is_a_report_and_three_keys(path, report):
    log = AuditLog(path, KEY)
    log.report(report)
    log.close()
    (actual,) = lines(path)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(actual)
    assert actual.keys() == schema["properties"].keys() | {"line", "prev", "mac"}
    wanted = report.as_dict()
    same = wanted.keys() - {"tokens", "conversation", "detail"}
    assert {key: actual[key] for key in same} == {key: wanted[key] for key in same}


def test_no_text_gets_in(path):
    secret = "the user's own words"
    receipt = Receipt({"add": {"calm": 0.1}}, None, (1, 2), 0.1, 0.05, 0.1, 3, 0, 0)
    report = dataclasses.replace(
        make_report(Request(scores="tokens", conversation=secret)),
        detail=f"ValueError: cannot encode {secret}",
        receipt=receipt,
    )
    halted = dataclasses.replace(report, detail=f"steering broke (KeyError: {secret}) and so on")
    log = AuditLog(path, KEY)
    log.report(report)
    log.report(halted)
    log.close()
    assert secret.encode() not in path.read_bytes()
    first, second = lines(path)
    assert (first["detail"], second["detail"]) == ("ValueError", "steering broke")
    assert first["tokens"] == []
    assert first["receipt"]["layers"] == [1, 2]


def test_conversations_are_told_apart_by_a_keyed_name(path, tmp_path):
    def names(key: Key, file: Path) -> list[str]:
        log = AuditLog(file, key)
        for conversation in ("anna", "bert", "anna", "\ud800"):
            log.report(dataclasses.replace(REPORT, conversation=conversation))
        log.close()
        return [line["conversation"] for line in lines(file)]

    anna, bert, again, odd = names(KEY, path)
    assert anna == again
    assert len({anna, bert, odd}) == 3
    assert names(Key(bytes(32)), tmp_path / "other")[0] != anna


def test_hostile_ids_stay_on_one_line(path):
    log = AuditLog(path, KEY)
    for odd in ('"}\n{"line":1', "\ud800\0", "é" * 10_000, '","mac":"' + "0" * 64 + '"}'):
        log.report(dataclasses.replace(REPORT, id=odd))
    log.close()
    assert len(lines(path)) == 4
    assert verify(parts(path), KEY, lines=4).findings == []


def test_a_report_that_is_no_json_is_refused_and_costs_no_number(path):
    bad = dataclasses.replace(REPORT, scores={"sad": LabelScore(float("nan"), None, None)})
    log = AuditLog(path, KEY)
    log.report(REPORT)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.report(bad)
    log.report(REPORT)
    log.close()
    assert verify(parts(path), KEY, lines=2).findings == []


def test_only_the_owner_can_read_it(path):
    written(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_restart_continues_the_chain(path):
    written(path, 3)
    assert written(path, 2).lines == 5
    assert [line["line"] for line in lines(path)] == [1, 2, 3, 4, 5]
    assert verify([path], KEY, lines=5).findings == []


def test_a_restart_with_another_key_or_a_changed_tail_is_refused(path):
    written(path, 2)
    with pytest.raises(EmoGuardError, match="another key"):
        AuditLog(path, Key(bytes(32)))
    path.write_bytes(path.read_bytes().replace(b'"status":"scored"', b'"status":"error"'))
    with pytest.raises(EmoGuardError, match="changed or written with another key"):
        AuditLog(path, KEY)
    path.unlink()
    written(path, 1)  # and the lock was given back


def test_after_a_torn_line_a_restart_goes_on_with_its_number(path):
    killed(path, 3)
    path.write_bytes(path.read_bytes()[:-100])
    assert written(path, 2).lines == 4
    verdict = verify([path], KEY, lines=4)
    assert verdict.sound
    assert [(f.kind, f.row) for f in verdict.findings] == [("torn", 3)]


def test_a_line_that_lacks_only_its_newline_is_whole(path):
    written(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert written(path, 1).lines == 3
    assert verify([path], KEY, lines=3).findings == []


def test_torn_from_the_beginning(path):
    path.write_bytes(b'{"line":1,"prev":"00')
    assert written(path, 1).lines == 1
    assert verify([path], KEY, lines=1).sound


def test_files_are_rotated_by_size_and_chained(path):
    written(path, 40, rotate_mib=0.01)
    written(path, 1, rotate_mib=0.01)
    files = parts(path)
    assert len(files) >= 3
    firsts = [json.loads(file.read_bytes().splitlines()[0])["line"] for file in files]
    assert [int(file.suffix[1:]) for file in files[:-1]] == firsts[:-1]
    assert all(file.stat().st_size < 0.01 * 2**20 + 4096 for file in files)
    assert verify(files, KEY, lines=41).findings == []


def test_files_are_rotated_by_age_over_restarts(path):
    def log_at(hour: float) -> None:
        log = AuditLog(path, KEY, rotate_hours=24)
        log.report(dataclasses.replace(REPORT, created=hour * 3600))
        log.close()

    for hour in (1, 2, 24.9, 25, 26):
        log_at(hour)
    assert [len(file.read_bytes().splitlines()) for file in parts(path)] == [3, 2]
    assert verify(parts(path), KEY, lines=5).findings == []


@pytest.mark.parametrize("set_by", [-3, 0, 3])
def test_a_files_age_goes_on_when_the_clock_is_set(path, set_by):
    """Hours of uptime pass as they do, whatever the wall clock was set to after the first line."""
    uptime = 0.0
    log = AuditLog(path, KEY, rotate_hours=2, now=lambda: Moment(0.0, uptime * 3600, "one"))
    for uptime in (0, 1, 2.5):
        wall = 100 + uptime + (set_by if uptime else 0)
        log.report(dataclasses.replace(REPORT, created=wall * 3600))
    log.close()
    lines = [len(file.read_bytes().splitlines()) for file in parts(path)]
    assert lines == ([1, 2] if set_by > 0 else [2, 1])
    assert verify(parts(path), KEY, lines=3).findings == []


def test_a_file_from_the_future_is_rotated_at_a_restart(path):
    """The clock was set back while the process was down: how old the file is nobody knows."""
    for hour in (100, 50, 51):
        log = AuditLog(path, KEY, rotate_hours=24)
        log.report(dataclasses.replace(REPORT, created=hour * 3600))
        log.close()
    assert [len(file.read_bytes().splitlines()) for file in parts(path)] == [1, 2]


def test_a_kill_between_renaming_and_opening_loses_nothing(path):
    written(path, 2)
    path.rename(f"{path}.{1:012d}")
    assert written(path, 1).lines == 3
    assert verify(parts(path), KEY, lines=3).findings == []


def test_a_file_moved_by_another_program_is_left_alone(path, tmp_path):
    log = AuditLog(path, KEY)
    log.report(REPORT)
    elsewhere = path.rename(tmp_path / "moved")
    log.report(REPORT)
    log.close()
    assert verify([elsewhere, path], KEY, lines=2).findings == []


def test_a_file_renamed_by_logrotate_between_runs_is_followed_by_the_next(path, caplog):
    written(path, 3)
    older = path.rename(path.with_name("audit.jsonl.1"))
    log = written(path, 2)
    assert log.lines == 5
    assert log.faults() == 1
    assert "line 3 was noted as written" in caplog.text
    assert verify([older, path], KEY, lines=5).findings == []


@pytest.mark.parametrize("left", [b"", b"no log\n"])
def test_a_log_emptied_between_runs_is_detected(path, left, caplog):
    written(path, 3)
    path.write_bytes(left)
    assert written(path, 1).lines == 4
    assert "ends with no line" in caplog.text
    assert [f.kind for f in verify([path], KEY).findings][-1:] == ["missing"]


def test_lines_cut_off_between_runs_are_detected_and_stay_missing(path, caplog):
    written(path, 5)
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:3]) + rows[3][:50])
    log = written(path, 1)
    assert (log.lines, log.faults()) == (6, 1)
    assert "ends with line 3, but line 5 was noted" in caplog.text
    assert [f.kind for f in verify([path], KEY).findings] == ["foreign", "missing"]


def test_a_lost_volume_is_found_from_a_note_on_another(path, tmp_path, caplog):
    volume, note = tmp_path / "volume", tmp_path / "head"
    volume.mkdir()
    log = written(volume / "audit.jsonl", 3, head=note)
    shutil.rmtree(volume)
    volume.mkdir()
    log = written(volume / "audit.jsonl", 1, head=note)
    assert (log.lines, log.faults()) == (4, 1)
    assert read_head(note).number == 4
    assert verify([volume / "audit.jsonl"], KEY, first=4, lines=4).findings == []
    with opened(path, head=note), pytest.raises(EmoGuardError, match="head is kept by another"):
        AuditLog(tmp_path / "other", KEY, head=note)


def test_a_chain_that_begins_anew_says_so(path, caplog):
    written(path, 1)
    assert caplog.text.count("a new chain begins") == 1
    written(path, 1)
    assert caplog.text.count("a new chain begins") == 1


@pytest.mark.parametrize("note", ["", "\0" * 70, "7 nothing", "9" * 2000])
def test_a_note_that_cannot_be_read_is_set_aside_and_the_log_goes_on(path, note, caplog):
    written(path, 2)
    (Path(f"{path}.state") / "head").write_text(note)
    log = written(path, 1)
    assert (log.lines, log.faults()) == (3, 1)
    assert "cannot be used and is now head.aside-1" in caplog.text
    assert verify([path], KEY, lines=3).findings == []


def test_the_note_is_never_ahead_of_the_disk(path, monkeypatch):
    order = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda h: order.append(Path(f"/proc/self/fd/{h}").readlink().name) or fsync(h)
    )
    with opened(path, fsync_seconds=0) as log:
        log.report(REPORT)
        order.clear()
        log.report(REPORT)
        assert read_head(f"{path}.state/head").number == 2
    kinds = [name.partition(".part")[0] for name in order]
    assert kinds[:3] == ["audit.jsonl", "head", "audit.jsonl.state"]


def test_a_note_that_cannot_be_written_costs_no_line(path, tmp_path, caplog):
    (tmp_path / "notes").mkdir()
    with opened(path, fsync_seconds=0, head=tmp_path / "notes" / "head") as log:
        shutil.rmtree(tmp_path / "notes")
        (tmp_path / "notes").write_text("")
        for _ in range(3):
            log.report(REPORT)
        assert log.faults() == 3
    assert caplog.text.count("(logged once)") == 1
    assert verify([path], KEY, lines=3).findings == []


def test_changes_by_others_while_the_log_is_written_are_logged(path, caplog):
    with opened(path) as log:
        for n, deed in enumerate((
            lambda: path.rename(path.with_name("audit.jsonl.1")), path.unlink,
            lambda: os.truncate(path, 0), lambda: path.write_bytes(path.read_bytes() + b"half"),
        )):  # fmt: skip
            log.report(REPORT)
            log.report(REPORT)
            deed()
            log.report(REPORT)
            assert log.lines == 3 * n + 3
        assert log.faults() == 2
    for sentence in ("was renamed by", "deleted while", "was cut while"):
        assert caplog.text.count(sentence) == 1
    kinds = [finding.kind for finding in verify([path], KEY, first=9, lines=12).findings]
    assert kinds == ["foreign"], "its own lines are whole"


@pytest.mark.parametrize("forward", [False, True])
def test_a_clock_that_is_set_does_not_stop_the_rotation_by_age(path, monkeypatch, forward):
    uptime = [1e6]
    monkeypatch.setattr(time, "monotonic", lambda: uptime[0])
    with opened(path, rotate_hours=24) as log:
        log.report(dataclasses.replace(REPORT, created=1e9))
        uptime[0] += 25 * 3600
        log.report(dataclasses.replace(REPORT, created=1e9 + (1e8 if forward else -1e8)))
        assert len(parts(path)) == 2
        log.report(dataclasses.replace(REPORT, created=1e9 + (1e8 if forward else -1e8)))
        assert len(parts(path)) == 2


def test_a_rotated_file_is_never_written_over(path):
    log = AuditLog(path, KEY, rotate_mib=0.001)
    log.report(REPORT)
    log.report(REPORT)
    other = Path(f"{path}.{1:012d}")
    other.write_text("somebody's")
    with pytest.raises(EmoGuardError, match="is there already: move that one away"):
        log.report(REPORT)  # and written all the same
    assert other.read_text() == "somebody's"
    other.unlink()
    log.report(REPORT)
    log.close()
    assert len(parts(path)) == 2
    assert verify(parts(path), KEY, lines=4).findings == []


def test_a_second_writer_is_refused_until_the_first_closes(path):
    first = AuditLog(path, KEY)
    with pytest.raises(EmoGuardError, match="is kept by another guard or sink of this process"):
        AuditLog(path, KEY)
    first.close()
    first.close()
    with pytest.raises(EmoGuardError, match="is closed"):
        first.report(REPORT)
    AuditLog(path, KEY).close()


def test_a_second_process_is_refused(path):
    first = AuditLog(path, KEY)
    code = (
        "import sys; from emoguard_jsonl import AuditLog, Key\n"
        "AuditLog(sys.argv[1], Key(bytes(range(32))))"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"is kept by another process (process {os.getpid()} on " in done.stderr
    first.close()


def test_a_forked_child_cannot_write(path):
    log = AuditLog(path, KEY)
    log.report(REPORT)
    child = os.fork()
    if child == 0:
        try:
            log.report(REPORT)
        except EmoGuardError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    log.report(REPORT)
    log.close()
    assert verify([path], KEY, lines=2).findings == []


FULL = """
import dataclasses, resource, signal, sys
from emoguard_jsonl import AuditLog, Key
from emoguard.testing import make_report
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log, report = AuditLog(sys.argv[1], Key(bytes(range(32)))), make_report()
log.report(report)
whole = log._file.size
resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 300, resource.RLIM_INFINITY))
try:
    log.report(report)
except OSError as error:
    print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.report(report)
log.close()
"""


def test_a_full_disk_takes_back_the_part_and_the_next_report_gets_the_number(path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert verify([path], KEY, lines=2).findings == []


APPEND_ONLY = """
import os
def refuse(*_): raise PermissionError("append only")
os.ftruncate = refuse
"""


def test_a_part_that_cannot_be_taken_back_is_torn_and_the_next_line_says_so(path):
    done = subprocess.run([sys.executable, "-c", APPEND_ONLY + FULL, str(path)], check=True)
    assert not done.returncode
    verdict = verify([path], KEY, lines=2)
    assert verdict.sound
    assert [(f.kind, f.row) for f in verdict.findings] == [("torn", 2)]
    assert written(path, 1).lines == 3
    assert verify([path], KEY, lines=3).findings == verdict.findings


@pytest.mark.parametrize("kind", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_an_irregular_file_is_refused_at_once(path, kind):
    kind(path)
    with pytest.raises(EmoGuardError, match=r"wanted a regular file|Is a directory"):
        AuditLog(path, KEY)


def test_a_line_of_a_gibibyte_is_not_held(path):
    with path.open("wb") as file:
        file.write(b"a")
        file.truncate(2**30)
    code = (
        "import sys\nfrom emoguard_jsonl import AuditLog, Key\n"
        "from tests.support.memory import peak_bytes\n"
        "AuditLog(sys.argv[1], Key(bytes(range(32)))).close(); print(peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    assert int(done.stdout) < 2**28


def test_threads_may_report_at_once(path):
    log = AuditLog(path, KEY)
    threads = [
        threading.Thread(target=lambda: [log.report(REPORT) for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert verify([path], KEY, lines=200).findings == []


def test_a_guard_writes_through_it(path):
    probe = make_probe(FakeResiduals())
    log = AuditLog(path, KEY)
    with Guard(probe, sinks=[log]) as guard:
        report: Report = put_reading(guard, make_reading(), Request(id="q"))
        assert guard.flush()
    log.close()
    assert [line["id"] for line in lines(path)] == [report.id]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rotate_mib": 0}, "rotate_mib must be at least 0.001, got 0"),
        ({"rotate_hours": float("nan")}, "rotate_hours must be at least"),
        ({"fsync_seconds": -1}, "fsync_seconds must be at least 0"),
    ],
)
def test_odd_numbers_are_refused(path, options, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        AuditLog(path, KEY, **options)


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    for bad in (tmp_path / "no" / "audit.jsonl", tmp_path, "nul\0l"):
        with pytest.raises(EmoGuardError, match="the audit log cannot be written"):
            AuditLog(bad, KEY)


@pytest.mark.parametrize("seconds", [0, None])
def test_lines_are_in_the_file_at_once_with_or_without_fsync(path, seconds):
    log = AuditLog(path, KEY, fsync_seconds=seconds)
    log.report(REPORT)
    assert verify([path], KEY, lines=1).findings == []
    log.close()


def site(**options) -> Site:
    return make_site(Policy.parse({"sinks": [{"jsonl": options}]}))


def test_a_policy_opens_and_closes_it(path, tmp_path):
    file = str(tmp_path / "key")
    with open_sinks(site(path=str(path), key_file=file, create_key=True)) as (log,):
        log.report(REPORT)
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
    with open_sinks(site(path=str(path), key_file=file, create_key=True)) as (log,):
        log.report(REPORT)
    assert verify([path], Key.load(file), lines=2).findings == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"sinks.0.jsonl.path: wanted"),
        ({"path": 3}, r"sinks.0.jsonl.path: wanted text, got 3"),
        ({"path": "a", "keyfile": "k"}, r"sinks.0.jsonl.keyfile: unknown; did you mean key_file\?"),
        ({"path": "a"}, "sinks.0.jsonl: an audit log needs a key"),
        ({"path": "a", "key_file": "k", "key_env": "K"}, "give key_file or key_env, one of them"),
        ({"path": "a", "key_file": "/nowhere/k"}, "the audit key cannot be read"),
        ({"path": "a", "key_env": "NOT_SET_HERE"}, "NOT_SET_HERE: set it"),
        ({"path": "a", "key_file": "k", "rotate_mib": "9"}, 'rotate_mib: wanted a number, got "9"'),
    ],
)
def test_mistakes_in_a_policy_are_named(options, sentence):
    with pytest.raises(EmoGuardError, match=sentence), open_sinks(site(**options)):
        pass


def test_keys_come_from_files_and_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "key"
    result = Key.create(file)
    monkeypatch.setenv("AUDIT", file.read_text())
    seals = {key.seal(b"x") for key in (result, Key.load(file), Key.from_environment("AUDIT"))}
    assert len(seals) == 1
    with pytest.raises(EmoGuardError, match="cannot be written"):
        Key.create(file)


@pytest.mark.parametrize("text", ["", "secret words", "0" * 63, "é" * 64])
def test_a_malformed_key_is_refused_and_not_shown(tmp_path, text):
    file = tmp_path / "key"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(EmoGuardError, match="wanted 64 hexadecimal digits") as caught:
        Key.load(file)
    assert not text or text not in str(caught.value)


def test_memory_and_descriptors_do_not_grow(path):
    log = AuditLog(path, KEY, rotate_mib=0.1, fsync_seconds=None)
    for _ in range(200):
        log.report(REPORT)
    handles, peak = _handles(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(5000):
        log.report(REPORT)
    assert _handles() == handles
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak.ru_maxrss < 2048
    log.close()


def _handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(("mode", "answer"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_key_that_others_can_read_is_said(tmp_path, mode, answer, caplog):
    Key.create(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    Key.load(tmp_path / "key")
    assert ("is open to others" in caplog.text) == answer


def test_a_key_is_whole_or_not_there_and_of_two_that_make_one_one_wins(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EmoGuardError, match="No space left"):
        Key.create(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b: (Path(b).write_text("first"), link(a, b)))
    with pytest.raises(EmoGuardError, match="File exists"):
        Key.create(tmp_path / "key")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["first"]
