"""JSON as apps read it, within bounds."""

import json
import math

import pytest
from emoguard_asgi import loosejson

from emoguard.jsontext import MOST_VALUES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
def test_every_encoding_that_apps_detect_is_read(encoding):
    assert loosejson.parse('{"é": "✓"}'.encode(encoding)) == {"é": "✓"}


def test_numbers_that_are_none_of_json_are_read():
    assert loosejson.parse(b"[-Infinity, 1e999]") == [-math.inf, math.inf]
    assert math.isnan(loosejson.parse(b"NaN"))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"{} {}", b"[" * 100, b"\x00"])
def test_text_that_no_app_reads_is_a_value_error(data):
    with pytest.raises(ValueError):
        json.loads(data)
    with pytest.raises(ValueError):
        loosejson.parse(data)


@pytest.mark.parametrize(
    "data",
    [b"9" * 5000, b"[" * 100_000, b'{"a":' * 100_000, b"[" + b"1," * MOST_VALUES + b"1]"],
    ids=["digits", "lists", "objects", "values"],
)
def test_text_beyond_the_bounds_is_not_parsed(data):
    with pytest.raises(loosejson.UnboundedError):
        loosejson.parse(data)
