"""Reading the published files of items."""

import csv

import pytest

from emoguard.errors import EmoGuardError
from emoguard.study import questions

TURNS = [
    {"conv_id": "1", "user_first_turn": 'Are you "alive"?\n\nBe honest, please.'},
    {"conv_id": "2", "user_first_turn": "Do you miss me,\r\nor not?\x0bSay\u2028it."},
]
"""Texts with what ends a line for `str.splitlines`, which a CSV field may hold."""


def write(folder, rows, columns=("conv_id", "user_first_turn")):
    path = folder / questions.TURNS
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_a_field_of_several_lines_stays_whole(tmp_path):
    write(tmp_path, TURNS)
    wanted = {f"turn-{row['conv_id']}": row["user_first_turn"] for row in TURNS}
    assert questions.first_turns(tmp_path) == wanted


@pytest.mark.parametrize(("rows", "columns"), [(TURNS, ["conv_id"]), ([], ["conv_id"])])
def test_a_file_without_rows_or_a_column_is_refused(tmp_path, rows, columns):
    write(tmp_path, rows, columns)
    with pytest.raises(EmoGuardError, match="columns conv_id, user_first_turn"):
        questions.first_turns(tmp_path)


def test_a_field_that_no_csv_reader_takes_is_refused_by_file(tmp_path):
    write(tmp_path, [{"conv_id": "1", "user_first_turn": "x" * 200_000}])
    with pytest.raises(EmoGuardError, match=r"first_turns.csv is no CSV file \(field larger"):
        questions.first_turns(tmp_path)
