"""What can be done to an audit log, and that `verify` finds it; processes killed while writing."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from emoguard_jsonl import AuditLog, Key, Verdict, accepted, parts, verify
from hypothesis import given, settings
from hypothesis import strategies as st

from emoguard import Request
from emoguard.cli import main
from emoguard.testing import make_report

KEY = Key(bytes(range(32)))
REPORT = make_report(Request(id="r"))
LINES = 8


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> list[bytes]:
    """The lines of a log of 8."""
    path = tmp_path_factory.mktemp("sound") / "audit.jsonl"
    write(path, LINES)
    return path.read_bytes().splitlines(keepends=True)


def write(path: Path, count: int, key: Key = KEY, **options) -> None:
    log = AuditLog(path, key, **options)
    for n in range(count):
        log.report(dataclasses.replace(REPORT, id=f"r{n}"))
    log.close()


def found(path: Path, rows: list[bytes], **known) -> list[tuple[str, int]]:
    path.write_bytes(b"".join(rows))
    return [(f.kind, f.row) for f in verify([path], KEY, **known).findings]


def forged(row: bytes, mac: bytes | None = None) -> bytes:
    """Edit a line as somebody would who has no key: with a hash that looks right."""
    body = json.loads(row) | {"status": "error"}
    if mac is not None:
        body["mac"] = mac.decode()
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def test_a_sound_log_is_sound(tmp_path, sound):
    assert found(tmp_path / "a", sound, lines=LINES) == []


def test_an_edited_line_is_found(tmp_path, sound):
    rows = [*sound[:3], forged(sound[3]), *sound[4:]]
    assert found(tmp_path / "a", rows) == [("changed", 4)]


def test_an_edited_line_with_a_new_hash_is_found(tmp_path, sound):
    other = tmp_path / "other"
    write(other, 4, Key(bytes(32)))
    guess = json.loads(other.read_bytes().splitlines()[3])["mac"].encode()
    rows = [*sound[:3], forged(sound[3], guess), *sound[4:]]
    assert found(tmp_path / "a", rows) == [("changed", 4)]


def test_a_chain_written_anew_with_another_key_is_found(tmp_path, sound):
    other = tmp_path / "other"
    write(other, LINES, Key(bytes(32)))
    assert {f.kind for f in verify([other], KEY).findings} == {"changed"}


@pytest.mark.parametrize("index", range(LINES - 1))
def test_a_removed_line_is_found(tmp_path, sound, index):
    rows = sound[:index] + sound[index + 1 :]
    assert found(tmp_path / "a", rows) == [("missing", index + 1)]


def test_lines_in_another_order_are_found(tmp_path, sound):
    rows = [*sound[:2], sound[4], sound[2], sound[3], *sound[5:]]
    assert found(tmp_path / "a", rows) == [("missing", 3), ("misplaced", 4), ("misplaced", 5)]


def test_a_repeated_line_is_found(tmp_path, sound):
    assert found(tmp_path / "a", [*sound, sound[2]]) == [("misplaced", LINES + 1)]


def test_a_line_of_another_log_with_the_same_key_is_found(tmp_path, sound):
    other = tmp_path / "other"
    write(other, LINES)
    foreign = other.read_bytes().splitlines(keepends=True)
    rows = [*sound[:3], foreign[3], *sound[4:]]
    assert found(tmp_path / "a", rows) == [("foreign", 4), ("missing", 5)]
    rows = [*sound[:5], *foreign[5:]]
    assert found(tmp_path / "b", rows) == [("foreign", 6), ("foreign", 7), ("foreign", 8)]
    rows = [*sound[:5], *foreign[5:], *sound[5:]]
    assert found(tmp_path / "c", rows) == [("foreign", 6), ("foreign", 7), ("foreign", 8)]


def test_a_tail_cut_off_is_found_by_the_count_or_a_noted_line(tmp_path, sound):
    head = (LINES, json.loads(sound[-1])["mac"])
    rows = sound[:-2]
    assert found(tmp_path / "a", rows) == []
    assert found(tmp_path / "a", rows, lines=LINES) == [("cut", LINES - 2)]
    assert found(tmp_path / "a", rows, head=head) == [("cut", LINES - 2)]
    assert found(tmp_path / "a", sound, head=head) == []
    assert found(tmp_path / "a", [], lines=3) == [("cut", 0)]


def test_a_log_begun_anew_is_found_by_a_noted_line(tmp_path, sound):
    write(tmp_path / "new", LINES)
    noted = (3, json.loads(sound[2])["mac"])
    assert [f.kind for f in verify([tmp_path / "new"], KEY, head=noted).findings] == ["foreign"]


def test_a_line_cut_short_at_the_end_is_torn_and_counted(tmp_path, sound):
    rows = [*sound[:-1], sound[-1][:200]]
    assert found(tmp_path / "a", rows) == [("torn", LINES)]
    assert found(tmp_path / "a", rows, lines=LINES) == [("torn", LINES), ("cut", LINES)]


def test_a_line_cut_short_in_the_middle_is_not_innocent(tmp_path, sound):
    rows = [*sound[:3], sound[3][:200] + b"\n", *sound[4:]]
    assert found(tmp_path / "a", rows) == [("foreign", 4), ("missing", 5)]
    rows = [*sound[:3], sound[3][:200] + b"\n", *sound[3:]]
    assert found(tmp_path / "a", rows) == [("foreign", 4)]
    assert found(tmp_path / "a", [*sound[:3], sound[3][:200] + b"\n"]) == [("foreign", 4)]


def test_only_the_beginning_of_the_next_line_is_torn_at_the_end(tmp_path, sound):
    (other := tmp_path / "other").touch()
    write(other, LINES)
    foreign = other.read_bytes().splitlines(keepends=True)
    whole, head = sound[4][:-1], sound[4][:83]
    no_mac = json.dumps(json.loads(whole) | {"mac": None}, separators=(",", ":")).encode()
    for end in (
        b"x", b" ", sound[5][:300], foreign[4][:300], sound[3][:300], no_mac,
        head + b"}", head + b',"id":1}', head + b"}\n", head + b"\n",
    ):  # fmt: skip
        assert [kind for kind, _ in found(tmp_path / "a", [*sound[:4], end])] == ["foreign"], end
    for end in (
        *(whole[:cut] for cut in (1, 9, 11, 90, 200, -1)),
        whole[:200] + b"\0" * 300,
        b"\0",
    ):
        assert found(tmp_path / "a", [*sound[:4], end]) == [("torn", 5)], end
    assert found(tmp_path / "a", [*sound[:4], whole]) == []


def test_a_restart_vouches_for_the_line_it_found_torn_and_for_no_other_row(tmp_path, sound):
    path = tmp_path / "a"
    path.write_bytes(b"".join(sound[:4]) + sound[4][:200])
    write(path, 2)
    rows = path.read_bytes().splitlines(keepends=True)
    assert len(rows) == 7
    assert found(path, rows, lines=6) == [("torn", 5)]
    assert found(path, [*rows[:4], *rows[5:]], lines=6) == []
    assert found(path, [*rows[:4], rows[4][:-2] + b"\n", *rows[5:]]) == [("foreign", 5)]
    assert found(path, [*rows[:4], rows[4], rows[4], *rows[5:]]) == [("foreign", 5), ("torn", 6)]
    assert found(path, [*rows, rows[4]]) == [("torn", 5), ("foreign", 8)]


@pytest.mark.parametrize("end", [b"forged", b"forged\n", b'{"line":5,"prev":"00', b'{"id":"x"}'])
def test_a_restart_does_not_sign_rows_that_no_process_was_writing(tmp_path, sound, end):
    path = tmp_path / "a"
    path.write_bytes(b"".join(sound[:4]) + end)
    write(path, 1)
    assert [(f.kind, f.row) for f in verify([path], KEY, lines=5).findings] == [("foreign", 5)]


def test_a_torn_line_before_a_rotation_is_vouched_for_in_the_next_file(tmp_path):
    path = tmp_path / "audit.jsonl"
    write(path, 2)
    shutil.rmtree(f"{path}.state")  # of a killed process the end is noted only once a second
    path.write_bytes(path.read_bytes()[:-100])
    write(path, 1, rotate_mib=0.001)
    assert len(parts(path)) == 2
    assert [(f.kind, f.row) for f in verify(parts(path), KEY, lines=2).findings] == [("torn", 2)]


@pytest.mark.parametrize(
    "change",
    [
        gzip.compress,
        lambda log: log.replace(b"\n", b"\r\n"),
        lambda log: b"".join(json.dumps(json.loads(row)).encode() + b"\n" for row in log.split()),
        lambda log: log.replace(b'{"line"', b'{ "line"'),
        lambda log: log.upper(),
        lambda log: log.decode().encode("utf-16"),
        lambda log: b"\xef\xbb\xbf" + log,
        lambda log: log + b"\n",
        lambda log: b"\n" + log,
        lambda log: log.replace(b"\n", b"\n\n"),
        lambda log: log.replace(b"\n", b""),
        lambda log: log[:700] + b"\0" * 4096 + log[700:],
        lambda log: b"hello\n" * 50,
        lambda log: b"\n",
        lambda log: b"\0" * 4096,
        lambda log: b"",
    ],
)  # fmt: skip
def test_a_log_of_another_key_is_not_sound(tmp_path, sound, change):
    path = tmp_path / "a"
    path.write_bytes(change(b"".join(sound)))
    assert not verify([path], KEY).sound


def test_an_empty_log_is_sound_only_where_none_is_wanted(tmp_path):
    assert found(tmp_path / "a", []) == [("cut", 0)]
    assert found(tmp_path / "a", [], lines=0) == []
    assert found(tmp_path / "a", [b'{"line":1,"prev']) == [("torn", 1), ("cut", 1)]


def test_forged_rows_hide_no_honest_line(tmp_path, sound):
    path, lies = tmp_path / "a", [forged(sound[4]), forged(sound[7]), b"x\n"]
    path.write_bytes(b"".join([*sound[:4], *lies, *sound[4:], *lies]))
    verdict = Verdict()
    rows = [line.row for line in accepted([path], KEY, verdict)]
    assert rows == [1, 2, 3, 4, 8, 9, 10, 11]
    assert not verdict.sound


def test_a_thousand_findings_are_kept_and_the_others_counted(tmp_path, sound):
    path = tmp_path / "a"
    path.write_bytes(b"".join([sound[0], *[forged(sound[1]), b"x\n"] * 2000, *sound[1:]]))
    verdict = verify([path], KEY, lines=LINES)
    assert (len(verdict.findings), verdict.omitted) == (1000, 3000)
    assert not verdict.sound


ROW = b'{"line":1,"prev":"%s",,"mac":"%s"}\n' % (b"0" * 64, b"0" * 64)
MEMORY = """
import resource, sys, time
from pathlib import Path
from emoguard import EmoGuardError
from emoguard_jsonl import AuditLog, Key, verify
from tests.support.memory import peak_bytes
path = Path(sys.argv[1])
assert not verify([path], Key(bytes(32))).sound
try:
    AuditLog(path, Key(bytes(32))).close()
except EmoGuardError:
    pass
print(peak_bytes() >> 20, time.process_time())
"""


@pytest.mark.parametrize("row", [b"a\n", b"\n", b"{\n", b"\0", ROW, b"x\n" + ROW], ids=repr)
def test_memory_and_time_are_bounded_for_any_rows(tmp_path, row):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(row * (24 * 2**20 // len(row)))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    peak, seconds = done.stdout.split()
    assert int(peak) <= 256
    assert float(seconds) <= 5


def test_older_files_may_be_kept_elsewhere(tmp_path, sound):
    assert found(tmp_path / "a", sound[3:]) == [("missing", 1)]
    assert found(tmp_path / "a", sound[3:], first=4, lines=LINES) == []


def test_a_rotated_file_that_is_gone_is_found(tmp_path):
    path = tmp_path / "audit.jsonl"
    write(path, 40, rotate_mib=0.01)
    first, second, *rest = parts(path)
    assert [f.kind for f in verify([first, *rest], KEY).findings] == ["missing"]
    assert not verify([second, first, *rest], KEY).sound
    assert verify([first, second, *rest], KEY, lines=40).findings == []


@settings(max_examples=2 * settings.default.max_examples)
@given(data=st.data())
def test_any_change_of_a_byte_is_found(tmp_path_factory, sound, data):
    log = bytearray(b"".join(sound))
    at = data.draw(st.integers(0, len(log) - 1))
    log[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(log)
    assert verify([path], KEY, lines=LINES).findings


@given(junk=st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(tmp_path_factory, sound, junk):
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(sound[0] + junk + sound[1])
    verify([path], KEY)


WRITER = """
import dataclasses, resource, signal, sys
from emoguard.records import LabelScore
from emoguard.testing import make_report
from emoguard_jsonl import AuditLog, Key
log = AuditLog(sys.argv[1], Key(bytes(range(32))), rotate_mib=10_000)
scores = {f"label{n}": LabelScore(1 / 3, 2 / 3, 0.5) for n in range(int(sys.argv[2]))}
report = dataclasses.replace(make_report(), scores=scores)
"""


@pytest.mark.slow
def test_sigkill_loses_at_most_the_line_being_written(tmp_path):
    path = tmp_path / "audit.jsonl"
    forever = WRITER + "while True:\n    log.report(report); print(log.lines, flush=True)\n"
    kills = acknowledged = 0
    for patience in (1, 4, 2, 7, 3, 5):
        with subprocess.Popen(
            [sys.executable, "-c", forever, str(path), "5000"], stdout=subprocess.PIPE, text=True
        ) as child:
            for _ in range(patience):
                acknowledged = int(child.stdout.readline())
            size = path.stat().st_size
            while path.stat().st_size == size:  # the next line is on its way
                pass
            child.send_signal(signal.SIGKILL)
            kills += 1
            acknowledged = int(([acknowledged, *child.stdout.read().split()])[-1])
        assert child.returncode == -signal.SIGKILL
        verdict = verify([path], KEY, lines=acknowledged)
        assert verdict.sound, verdict.findings
        assert len(verdict.findings) <= kills
        assert acknowledged <= verdict.last <= acknowledged + 1


def test_a_process_that_dies_inside_the_write_leaves_a_torn_line_that_is_named(tmp_path, capsys):
    path, key = tmp_path / "audit.jsonl", tmp_path / "key"
    key.write_text(bytes(range(32)).hex())
    dies = WRITER + (
        "log.report(report); log.report(report)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (log._file.size + 500, -1))\n"
        "log.report(report)\n"
    )
    done = subprocess.run([sys.executable, "-c", dies, str(path), "14"], check=False)
    assert done.returncode == -signal.SIGXFSZ
    arguments = ["audit", "verify", str(path), "--key-file", str(key), "--lines", "2"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"torn: {path} row 3 is not whole: line 3 was being written" in text
    write(path, 2)
    assert verify([path], KEY, lines=4).sound


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["audit", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_makes_a_key_and_verifies(tmp_path, capsys):
    path, key = tmp_path / "audit.jsonl", tmp_path / "key"
    assert run(capsys, "key", key)[0] == 0
    assert run(capsys, "key", key)[0] == 1
    write(path, 40, Key.load(key), rotate_mib=0.012)
    code, out, _ = run(capsys, "verify", path, "--key-file", key)
    assert code == 0
    assert out.startswith("sound: lines 1 to 40 in 3 files; whether lines were cut off at the end")
    everything = sorted(tmp_path.glob("audit.jsonl*"))  # as a shell does, the lock file included
    assert run(capsys, "verify", *everything, "--key-file", key, "--lines", 40)[0] == 0
    code, noted, _ = run(capsys, "head", path, "--key-file", key)
    head = tmp_path / "head"
    head.write_text(noted)
    assert run(capsys, "verify", path, "--key-file", key, "--head", head)[0] == 0
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    for known in (("--head", head), ("--lines", 40)):
        code, out, _ = run(capsys, "verify", path, "--key-file", key, *known)
        assert code == 1
        assert "line 40 is gone" in out
        assert "NOT SOUND: lines 1 to 39 in 3 files" in out


@pytest.fixture
def empty(tmp_path, monkeypatch) -> None:
    """A folder with an empty log, and a key in the environment."""
    monkeypatch.setenv("K", "0" * 64)
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"")


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("verify", "nowhere.jsonl", "--key-env", "K"), 1, "there is no audit log nowhere.jsonl"),
        (("verify", "a", "b", "--key-env", "K"), 1, "the audit log cannot be read"),
        (("verify", "a", "--key-env", "K"), 1, ""),
        (("verify", ".", "--key-env", "K"), 1, "wanted a regular file, got a folder"),
        (("verify", "/dev/null", "--key-env", "K"), 1, "wanted a regular file, got a device"),
        (("verify", "a", "--key-file", "/dev/zero"), 1, "wanted a regular file, got a device"),
        (("verify", "a", "--key-env", "K", "--head", "/dev/zero"), 1, "wanted a regular file"),
        (("verify", "a"), 2, "give --key-file or --key-env"),
        (("verify", "a", "--key-file", "nowhere"), 1, "the audit key cannot be read"),
        (("verify", "a", "--key-env", "K", "--head", "nowhere"), 1, "No such file"),
        (("verify", "a", "--key-env", "K", "--head", "a"), 1, "emoguard audit head prints"),
        (("head", "nowhere.jsonl", "--key-env", "K"), 1, "nowhere.jsonl holds no line"),
        (("head", "no/where.jsonl", "--key-env", "K"), 1, "cannot be read"),
    ],
)
def test_misuse_is_one_sentence(capsys, arguments, code, sentence):
    got, _, err = run(capsys, *arguments)
    assert got == code
    assert sentence in err
