"""The parsers of files: a sound file of each, and what reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from emoguard_drift import DriftMonitor
from emoguard_jsonl import AuditLog, Key, last_line, parts, read_head, verify
from emoguard_rate import RateMonitor

from emoguard import EmoGuardError, Guard, Policy, Request
from emoguard.cli import dose, logs
from emoguard.fit import corpora
from emoguard.fit.answers import AnswerFile
from emoguard.fit.store import BOUND, DONE, ROWS, RowStore
from emoguard.fit.writer import Manuscript
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.reload import PolicyFile
from emoguard.probe import artifact
from emoguard.records import LabelScore
from emoguard.sinks.baseline import Baseline
from emoguard.sinks.checkpoint import Checkpoint
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    every_kind_of_report,
    make_calibration,
    make_probe,
    make_reading,
    make_report,
    put_reading,
)
from emoguard.validate import human
from tests.emoguard.policy.test_policy import FULL

KEY = Key(bytes(range(32)))
LABELS = ("happy", "sad")
RATES = {"happy": 0.4, "sad": 0.4}
PROBE = make_probe(FakeResiduals())
CALIBRATIONS = [make_calibration(PROBE, FAKE_IDENTITY)]
NAMES = ("eu_art50", "us_ny_1702", "us_ca_sb243", "us_wa_2225", "us_ut_452", "cn_2026")
REPORT = make_report()


@dataclasses.dataclass(frozen=True)
class Parser:
    """What reads a file, and a sound file for it.

    `kind` says what the file is made of: json, lines (of JSON), probe, or anything else. `large`
    are beginning, unit and end of large files of its own kind. A file may be `optional`.
    """

    name: str
    seed: Callable[[], bytes]
    read: Callable[[Path], object]
    kind: str = "bytes"
    large: Callable[[], Sequence[tuple[bytes, bytes, bytes]]] = tuple
    optional: bool = False


def jsonl(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def label_file() -> bytes:
    return json.dumps(
        {
            "happy": {"words": ["happy", "joyful"], "valence": 1},
            "sad": {"words": ["sad"], "valence": -1},
        }
    ).encode()


def corpus_file() -> bytes:
    return jsonl(
        *(
            {"emotion": emotion, "topic": topic, "person": "first", "text": f"{topic}: a text"}
            for emotion in ("happy", "sad", "")
            for topic in ("a journey", "a meal")
        )
    )


def read_corpus(path: Path) -> None:
    corpora.balanced(corpora.read(path, corpora.default_labels()), 3)


def prompt_file() -> bytes:
    return "What is rain?\nWho was Ada?\nHow do you do?\n\nAre you \u2028 well?\n".encode()


def people_lines() -> bytes:
    return jsonl(
        {"text": "good", "labels": ["joy"]},
        {"text": "bad", "labels": ["sadness", "grief"]},
        {"text": "also bad", "emotion": "grief"},
    )


def people_table() -> bytes:
    return b"good\tjoy\tid1\nbad\tsadness,grief\tid2\nworse\t1\tid3\n"


def read_people(suffix: str, beside: str = "joy\ngrief\n") -> Callable[[Path], object]:
    def read(path: Path) -> None:
        (path.parent / "labels.txt").unlink(missing_ok=True)
        (path.parent / "labels.txt").write_text(beside)
        human.read_human(link(path, f"people{suffix}"), human.families())

    return read


def read_people_labels(path: Path) -> None:
    table = path.parent / "table.tsv"
    table.write_bytes(people_table())
    link(path, "labels.txt")
    human.read_human(table, human.families())


def link(path: Path, name: str) -> Path:
    """Let another name lead to a file, which may be large."""
    other = path.with_name(name)
    other.unlink(missing_ok=True)
    other.symlink_to(path)
    return other


def work_file(kind: str, *records: Any) -> bytes:
    head = {"emoguard": kind, "bound": {"model": "m"}}
    lines = [json.dumps(each, separators=(",", ":")) for each in (head, *records)]
    return "".join(f"{line}\n" for line in lines).encode()


ANSWER = {"prompt": [1, 2, 300_000], "answer": [3, 4, 5]}
ATTEMPT = {"order": ["happy", "a meal", 0], "text": "We ate and ate and ate.", "rejected": ""}


def read_manuscript(path: Path) -> None:
    Manuscript(path, {"model": "m"}, ["happy"])


def read_store(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        folder = path.parent / "store"
        shutil.rmtree(folder, ignore_errors=True)
        with RowStore(folder, {"model": "m"}, (4, 2, 3)) as store:
            store.write([1], np.ones((1, 2, 3), np.float32))
        (folder / name).unlink()
        (folder / name).symlink_to(path)
        with RowStore(folder, {"model": "m"}, (4, 2, 3)) as store:
            assert store.rows().shape == (4, 2, 3)

    return read


@cache
def stored(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as result:
        place = Path(result) / "store"
        RowStore(place, {"model": "m"}, (4, 2, 3)).close()
        return (place / name).read_bytes()


def read_policy(path: Path) -> None:
    PolicyFile(path).refresh()


@cache
def baseline() -> Baseline:
    rng = np.random.default_rng(0)
    scores = (
        {label: LabelScore(float(rng.normal()), None, 0.5) for label in LABELS}
        for _ in range(50 * 20)
    )
    return Baseline.learn((dataclasses.replace(REPORT, scores=each) for each in scores), 20)


@cache
def baseline_file() -> bytes:
    return json.dumps({"version": 1, **dataclasses.asdict(baseline())}).encode()


def read_baseline(path: Path) -> None:
    actual = Baseline.load(path)
    actual.columns(actual.labels)
    DriftMonitor(actual).report(REPORT)


def saved(monitor: Any) -> Callable[[], bytes]:
    """Return the state that a monitor keeps after a few reports."""

    @cache
    def state() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            watching = monitor(path)
            for report in [*every_kind_of_report(), REPORT, REPORT]:
                watching.report(report)
            watching.close()
            return path.read_bytes()

    return state


def rate_monitor(path: Path) -> RateMonitor:
    return RateMonitor(RATES, state=path)


def drift_monitor(path: Path) -> DriftMonitor:
    return DriftMonitor(baseline(), state=path)


def read_state(monitor: Any) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        monitor(path).report(REPORT)

    return read


def noticing(path: Path) -> Guard:
    policy = NoticePolicy(profiles=NAMES, strictest_of=NAMES, state=str(path))
    return Guard(PROBE, CALIBRATIONS, Policy(notices=policy))


@cache
def notice_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        with noticing(path) as guard:
            for n, finish in enumerate(("stop", "cancelled", "stop")):
                put_reading(guard, make_reading(2, finish=finish), Request(conversation=str(n)))
        return path.read_bytes()


def read_notices(path: Path) -> None:
    with noticing(path) as guard:
        put_reading(guard, make_reading(2), Request(conversation="1"))
        guard.flush()


@cache
def probe_file() -> bytes:
    probe = make_probe(FakeResiduals(), ("happy", "sad", "calm"))
    labels = json.loads(label_file())
    card = {"verdicts": {"happy": "usable", "sad": "weak"}}
    probe = dataclasses.replace(probe, recipe={"labels": labels}, card=card)
    return artifact.encode(probe, [make_calibration(probe, FAKE_IDENTITY)])


def read_probe(path: Path) -> None:
    probe, calibrations = artifact.load(path)
    corpora.recorded_labels(probe.recipe)
    Guard(probe, calibrations).site(FAKE_IDENTITY, "fake")


@cache
def large_probe() -> tuple[bytes, bytes, bytes]:
    """Return a file of the greatest size allowed, its shapes consistent, its witness enormous."""
    meta = {
        "format": artifact.FORMAT, "name": "x", "labels": ["a"], "axes": [], "layers": [1],
        "architecture": "x", "model_layers": 4, "recipe": {}, "card": {}, "calibrations": [],
    }  # fmt: skip
    tokens = 400
    hidden = (artifact.MAX_FILE_BYTES - 16_384) // (3 * 4 + 3 * (tokens - 1) * 2)
    shapes = {
        "read": ("F32", [1, 1, hidden], 4 * hidden),
        "steer": ("F32", [1, 1, hidden], 4 * hidden),
        "centre": ("F32", [1, hidden], 4 * hidden),
        "weights": ("F32", [1], 4),
        "witness.token_ids": ("I64", [tokens], 8 * tokens),
        "witness.residuals": ("F16", [1, 3, tokens - 1, hidden], 6 * (tokens - 1) * hidden),
    }
    header, offset = {"__metadata__": {"emoguard": json.dumps(meta)}}, 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {
            "dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text, b"\x01", b""


@cache
def log_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        written = AuditLog(path, KEY)
        for report in every_kind_of_report():
            written.report(report)
        written.close()
        return path.read_bytes()


def read_log(path: Path) -> None:
    files = parts(path)
    with logs.readable():
        verdict = verify(files, KEY)
        last_line(path, KEY)
    if verdict.sound:
        with path.open("rb") as file:
            whole = file.read(len(log_file()) + 1).rpartition(b"\n")
        assert log_file().startswith(b"".join(whole[:2]))
    for report in logs.Reports([str(path)], KEY):
        assert report.id
    AuditLog(path, KEY, fsync_seconds=None).close()


@cache
def report_file() -> bytes:
    return jsonl(*(report.as_dict() for report in every_kind_of_report()))


def read_reports(path: Path) -> None:
    """Sign each line, whatever it says, as the log would; then read what verify accepts."""
    log, mac = path.with_name("signed"), "0" * 64
    with log.open("wb") as file:
        for number, raw in enumerate(path.read_bytes().splitlines(), 1):
            body = b'{"line":%d,"prev":"%s",%s' % (number, mac.encode(), raw[1:-1])
            mac = KEY.seal(body)
            file.write(b'%s,"mac":"%s"}\n' % (body, mac.encode()))
    for report in logs.Reports([str(log)], KEY):
        for monitor in monitors():
            monitor.report(report)
    with contextlib.suppress(EmoGuardError):
        Baseline.learn(logs.Reports([str(log)], KEY), 1)


@cache
def monitors() -> tuple[RateMonitor, DriftMonitor]:
    return RateMonitor(RATES), DriftMonitor(baseline())


def read_noted(path: Path) -> None:
    with logs.readable():
        read_head(path)


def read_checkpoint(path: Path) -> None:
    checkpoint = Checkpoint(path, {"a": 1})
    checkpoint.open(lambda _state: None)
    checkpoint.release()
    for aside in path.parent.glob(f"{path.name}.aside-*"):
        aside.unlink()


PARSERS = [
    Parser("labels", label_file, corpora.read_labels, "json"),
    Parser(
        "corpus",
        corpus_file,
        read_corpus,
        "lines",
        lambda: [
            (b"", corpus_file(), b""),
            (b"", b'{"emotion":"happy","text":"%s"}\n' % (b"a " * 20), b""),
        ],
    ),
    Parser("prompts", prompt_file, corpora.read_prompts),
    Parser("openings", prompt_file, lambda path: dose.read_openings(str(path), 4)),
    Parser("families", human.OURS.read_bytes, human.families, "json"),
    Parser(
        "people", people_lines, read_people(".jsonl"), "lines", lambda: [(b"", people_lines(), b"")]
    ),
    Parser(
        "people's table",
        people_table,
        read_people(".tsv"),
        "bytes",
        lambda: [(b"", people_table(), b"")],
    ),
    Parser("people's labels", lambda: b"joy\ngrief\n", read_people_labels),
    Parser(
        "answers",
        lambda: work_file("answers", ANSWER, ANSWER),
        lambda path: AnswerFile(path, {"model": "m"}),
        "lines",
        lambda: [
            (work_file("answers"), work_file("answers", ANSWER).split(b"\n")[1] + b"\n", b""),
            (work_file("answers"), b'{"prompt":[],"answer":[]}\n', b""),
            (work_file("answers"), b'{"prompt":[],"answer":[%s0]}\n' % (b"999," * 100_000), b""),
            (work_file("answers")[:-3], b"a", b""),
        ],
        optional=True,
    ),
    Parser(
        "manuscript",
        lambda: work_file("texts", ATTEMPT, ATTEMPT),
        read_manuscript,
        "lines",
        lambda: [
            (work_file("texts"), work_file("texts", ATTEMPT).split(b"\n")[1] + b"\n", b""),
            (
                work_file("texts"),
                b'{"order":["a","b",1],"text":"%s","rejected":""}\n' % (b"a b c d " * 50_000),
                b"",
            ),
        ],
        optional=True,
    ),
    Parser("row store", lambda: stored(BOUND), read_store(BOUND), "json"),
    Parser("rows", lambda: stored(ROWS), read_store(ROWS)),
    Parser("rows done", lambda: stored(DONE), read_store(DONE)),
    Parser("policy", FULL.encode, read_policy),
    Parser(
        "baseline",
        baseline_file,
        read_baseline,
        "json",
        lambda: [(baseline_file()[: baseline_file().index(b"[[") + 1], b"[0.1,0.2],", b"[0,0]]}")],
    ),
    Parser("rate state", saved(rate_monitor), read_state(rate_monitor), "json", optional=True),
    Parser("drift state", saved(drift_monitor), read_state(drift_monitor), "json", optional=True),
    Parser(
        "notice state",
        notice_file,
        read_notices,
        "json",
        lambda: [
            (
                b'{"bound":{"notices":1},"state":{',
                b'"%s":[1.5,{},null,0,[]],',
                b'"":[1,{},null,0,[]]}}',
            ),
            (b'{"bound":{"notices":1},"state":{"a":[1,{', b'"%d":1.5,', b'"":1},null,0,[]]}}'),
        ],
        optional=True,
    ),
    Parser(
        "checkpoint",
        lambda: b'{"bound":{"a":1},"state":{}}',
        read_checkpoint,
        "json",
        optional=True,
    ),
    Parser("key", lambda: b"0f" * 32 + b"\n", Key.load),
    Parser("head", lambda: b"17 " + b"0f" * 32 + b"\n", read_noted),
    Parser("audit log", log_file, read_log, "lines", lambda: [(b"", log_file(), b"")]),
    Parser("audit reports", report_file, read_reports, "lines"),
    Parser("probe", probe_file, read_probe, "probe", lambda: [large_probe()]),
]

READERS = [parser for parser in PARSERS if parser.name != "audit reports"]
"""Those that get the file itself: lines of a log are copied to be signed."""
