import gzip
import json

import pytest

from emoguard import EmoGuardError
from emoguard.study.store import OPEN, Store

BOUND = {"protocol": "a", "model": "b"}


def record(number, seconds=1.0):
    return {"task": f"block/{number}", "cluster": "c", "cells": {}, "seconds": seconds}


def test_records_survive_and_pieces_are_compressed(tmp_path):
    store = Store(tmp_path / "s", BOUND)
    for number in range(3):
        store.add(record(number))
    store.close_piece()
    store.add(record(3))
    store.close()
    again = Store(tmp_path / "s", BOUND)
    assert list(again.records) == [f"block/{n}" for n in range(4)]
    assert [path.name for path in again.pieces] == ["piece-0001.jsonl.gz"]
    assert again.open_seconds == 1
    assert again.digest == store.digest


def test_a_line_that_a_killed_process_left_half_written_is_dropped(tmp_path):
    store = Store(tmp_path, BOUND)
    store.add(record(0))
    store.close()
    with (tmp_path / OPEN).open("ab") as file:
        file.write(b'{"task": "block/1", "cl')
    again = Store(tmp_path, BOUND)
    assert list(again.records) == ["block/0"]
    again.add(record(1))
    again.close()
    assert list(Store(tmp_path, BOUND).records) == ["block/0", "block/1"]


def test_a_kill_between_compressing_and_deleting_loses_and_doubles_nothing(tmp_path):
    store = Store(tmp_path, BOUND)
    store.add(record(0))
    kept = (tmp_path / OPEN).read_bytes()
    store.close_piece()
    store.close()
    (tmp_path / OPEN).write_bytes(kept)
    again = Store(tmp_path, BOUND)
    assert list(again.records) == ["block/0"]


def test_the_same_records_have_the_same_digest_however_long_they_took(tmp_path):
    one, other = Store(tmp_path / "a", BOUND), Store(tmp_path / "b", BOUND)
    for number in (0, 1):
        one.add(record(number, 1.0))
        other.add(record(1 - number, 2.0))
    assert one.digest == other.digest
    one.add({"task": "plan", "costs": [{"seconds": 1.0}]})
    other.add({"task": "plan", "costs": [{"seconds": 2.0}]})
    assert one.digest == other.digest
    other.add(record(2))
    assert one.digest != other.digest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_before_the_piece_is_spoilt(tmp_path, value):
    store = Store(tmp_path, BOUND)
    store.add(record(0))
    with pytest.raises(EmoGuardError, match="wanted finite numbers in a record"):
        store.add({"task": "block/1", "data": {"margin": value}})
    store.close()
    assert list(Store(tmp_path, BOUND).records) == ["block/0"]


def test_the_records_of_another_study_are_refused(tmp_path):
    store = Store(tmp_path, BOUND)
    store.add(record(0))
    store.close()
    with pytest.raises(EmoGuardError, match=r"(of other inputs|another study) \(model differ\)"):
        Store(tmp_path, {**BOUND, "model": "c"})
    store = Store(tmp_path, BOUND)
    store.close_piece()
    store.close()
    (tmp_path / OPEN).unlink()
    with pytest.raises(EmoGuardError, match=r"another study \(model differ\)"):
        Store(tmp_path, {**BOUND, "model": "c"})


def test_a_study_that_another_command_works_on_is_refused(tmp_path):
    store = Store(tmp_path, BOUND)
    for closed in (0, 1):
        store.add(record(closed))
        with pytest.raises(EmoGuardError, match="is kept by"):
            Store(tmp_path, BOUND)
        store.close_piece()
    store.close()
    assert list(Store(tmp_path, BOUND).records) == ["block/0", "block/1"]


def test_a_piece_that_was_removed_makes_no_other_be_written_over(tmp_path):
    store = Store(tmp_path, BOUND)
    for number in range(3):
        store.add(record(number))
        store.close_piece()
    store.close()
    store.pieces[1].unlink()
    again = Store(tmp_path, BOUND)
    again.add(record(1))
    again.close_piece()
    again.close()
    assert [path.name[6:10] for path in again.pieces] == ["0001", "0003", "0004"]
    assert set(Store(tmp_path, BOUND).records) == {f"block/{n}" for n in range(3)}


def _flipped(content):
    return content[:-9] + bytes([content[-9] ^ 0xFF]) + content[-8:]


def _deflated_wrongly(content):
    return content[:10] + b"\xff" * 8 + content[18:]


HEAD = json.dumps({"emoguard": "study", "bound": BOUND}).encode() + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"[]\n{}\n"),
        gzip.compress(b""),
        gzip.compress(HEAD)[:-4],
        _flipped(gzip.compress(HEAD)),
        _deflated_wrongly(gzip.compress(HEAD)),
        gzip.compress(HEAD + b'{"task": "block/1", \n'),
        gzip.compress(HEAD + b'{"task": 1}\n'),
        gzip.compress(b'{"bound": 3}\n'),
        b"no gzip",
    ],
    # gzip writes the time into what would be the name, and processes have to agree on names.
    ids=[
        "list",
        "empty",
        "cut",
        "flipped",
        "deflated",
        "half-a-record",
        "no-task",
        "no-head",
        "text",
    ],
)
def test_a_broken_piece_is_refused_by_name_with_the_remedy(tmp_path, content):
    (tmp_path / "piece-0001.jsonl.gz").write_bytes(content)
    with pytest.raises(
        EmoGuardError, match=r"piece-0001\.jsonl\.gz .*delete it, and its tasks run"
    ):
        Store(tmp_path, BOUND)


def test_a_piece_that_cannot_be_read_is_not_to_be_deleted(tmp_path):
    (tmp_path / "piece-0001.jsonl.gz").mkdir()
    with pytest.raises(EmoGuardError, match=r"piece-0001\.jsonl\.gz cannot be read: Is a dir"):
        Store(tmp_path, BOUND)
