import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError
from emoguard.fit import workfile
from emoguard.fit.answers import AnswerFile
from emoguard.runtime.speaker import Generated

BOUND = {"model": "m", "tokens": "8"}
SAID = [Generated([1, n], [n] * n) for n in range(5)]


def file(path, bound=BOUND):
    return AnswerFile(path, bound)


def one_by_one(start):
    return [[answer] for answer in SAID[start:]]


def written(path, count=5):
    answers = file(path)
    answers.extend(
        lambda start: one_by_one(start)[: count - start], lambda kept: len(kept) >= count
    )
    return path.read_bytes()


@given(cut=st.integers(0, 10**6))
def test_cut_anywhere_it_goes_on_where_it_was_and_ends_the_same(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("answers") / "a.jsonl"
    whole = written(path)
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    again = file(path)
    kept = whole[: cut % (len(whole) + 1)].count(b"\n")
    assert again.answers == SAID[: max(0, kept - 1)]
    starts = []
    again.extend(
        lambda start: starts.append(start) or one_by_one(start), lambda answers: len(answers) >= 5
    )
    assert starts == ([kept - 1 if kept else 0] if kept < 6 else [])
    assert again.answers == SAID
    assert path.read_bytes() == whole


def test_every_answer_is_on_disk_before_the_next_is_made(tmp_path):
    path = tmp_path / "a.jsonl"
    answers = file(path)

    def source(start):
        for n, answer in enumerate(SAID):
            assert path.read_bytes().count(b"\n") == 1 + n
            yield [answer]

    answers.extend(source, lambda kept: False)
    answers.close()
    assert file(path).answers == SAID


def test_nothing_is_written_that_could_not_be_read_again(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    whole = len(written(path))
    for name, most in (("LARGEST", whole), ("MOST_RECORDS", 5)):
        monkeypatch.setattr(workfile, name, most)
        full = file(path)
        with pytest.raises(EmoGuardError, match="is full"):
            full.extend(lambda start: [SAID], lambda kept: False)
        full.close()
        assert file(path).answers == SAID
        monkeypatch.setattr(workfile, name, most - 1)
        with pytest.raises(EmoGuardError, match="too large"):
            file(path)
        monkeypatch.undo()


def test_it_stops_when_there_are_enough(tmp_path):
    answers = file(tmp_path / "a.jsonl")
    answers.extend(one_by_one, lambda kept: len(kept) >= 2)
    assert answers.answers == SAID[:2]


def test_a_group_that_was_made_is_kept_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    answers = file(path)
    answers.extend(lambda start: [SAID[:3], SAID[3:]], lambda kept: len(kept) >= 2)
    answers.close()
    assert file(path).answers == SAID[:3]


def test_answers_of_another_model_or_context_are_refused_and_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    whole = written(path)
    for other in (BOUND | {"model": "n"}, BOUND | {"tokens": "9"}, {}):
        with pytest.raises(EmoGuardError, match="of other inputs"):
            file(path, other)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"a line\n",
        b"no newline",
        b"{}\n",
        b"[]\n",
        b"\xff\n",
        json.dumps({"emoguard": "answers"}).encode() + b"\n",
        b'{"emoguard":"answers","bound":{"model":"m","tokens":"8"}}\n{"prompt":[1]}\n',
        b'{"emoguard":"answers","bound":{"model":"m","tokens":"8"}}\n{"prompt":[1],"answer":["x"]}\n',
        b'{"emoguard":"answers","bound":{"model":"m","tokens":"8"}}\n\n',
    ],
)
def test_another_file_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(EmoGuardError, match="no file of answers"):
        file(path)
    assert path.read_bytes() == content


def test_a_full_disk_is_one_sentence_and_keeps_what_was_written(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    whole = written(path)
    answers = file(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(EmoGuardError, match=r"a\.jsonl cannot be written: No space left"):
        answers.extend(lambda start: [SAID], lambda kept: len(kept) > 5)
    monkeypatch.undo()
    assert path.read_bytes() == whole


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(EmoGuardError, match="cannot be used"):
        file(tmp_path)
