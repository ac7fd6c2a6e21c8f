import json

import pytest

from emoguard import EmoGuardError
from emoguard.validate.human import Family, families, read_human

KNOWN = [Family("joy", ("happy",), ("joy", "love"), 1), Family("grief", ("sad",), ("grief",), -1)]


def people(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_whose_words_lie_in_one_family_are_kept(tmp_path):
    records = [
        {"text": "a", "labels": ["joy", "love"]},
        {"text": "b", "labels": ["joy", "grief"]},
        {"text": "c", "emotion": "grief"},
        {"text": "d", "labels": ["boredom"]},
    ]
    path = people(tmp_path / "p.jsonl", "\n".join(map(json.dumps, records)))
    texts, names = read_human(path, KNOWN)
    assert texts == ["a", "c"]
    assert names.tolist() == ["joy", "grief"]


def test_numbers_in_a_table_count_the_lines_of_labels_txt(tmp_path):
    people(tmp_path / "labels.txt", "\ufeffjoy\n\ngrief\r\n")
    path = people(tmp_path / "p.tsv", "a\t0\nb\u2028b\t2\nc\t1\nd\t\u00b2\ne\t" + "9" * 5000 + "\n")
    texts, names = read_human(path, KNOWN)
    assert texts == ["a", "b\u2028b"]
    assert names.tolist() == ["joy", "grief"]


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '{"text": "a"}', '{"text": "a", "labels": "joy"}', '{"text": "a", "labels": [{}]}',
     '{"text": "a", "emotion": [1]}', "[" * 100_000],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line):
    path = people(tmp_path / "p.jsonl", f'{{"text": "a", "emotion": "joy"}}\n{line}\n')
    with pytest.raises(EmoGuardError, match=r"p\.jsonl:2"):
        read_human(path, KNOWN)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"joy": 1}', '{"joy": {"labels": "happy", "words": ["joy"], "valence": 1}}',
     '{"joy": {"labels": ["happy"], "words": [[]], "valence": 1}}', "[" * 100_000,
     '{"joy": {"labels": ["happy"], "words": ["joy"], "valence": 1e999}}'],
)  # fmt: skip
def test_what_are_no_families_is_refused(tmp_path, text):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        families(people(tmp_path / "f.json", text))
    assert len(families()) > 2
