"""A validation as plain data."""

import json
import math
from dataclasses import dataclass

import pytest

from emoguard.validate.carddata import plain


@dataclass(frozen=True)
class Record:
    value: float
    parts: tuple[float, ...]
    more: dict[int, float]


def test_records_become_json_with_four_digits_and_null_for_no_number():
    data = plain(Record(0.123456, (1.0, math.nan), {3: math.inf, 4: 2.00004}))
    assert data == {"value": 0.1235, "parts": [1.0, None], "more": {"3": None, "4": 2.0}}
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize("value", [None, "text", 7, True])
def test_everything_else_stays_as_it_is(value):
    assert plain(value) is value


def test_a_class_is_no_record():
    assert plain(Record) is Record
