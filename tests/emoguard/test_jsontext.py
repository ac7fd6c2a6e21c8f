"""Bounds of the one parser of JSON from outside."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, jsontext

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner),
)  # fmt: skip


@given(JSON, st.booleans(), st.booleans())
def test_json_parses_to_the_data_it_was_written_from(value, ascii_only, bom):
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8-sig" if bom else "utf-8")
    assert jsontext.parse(data) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "wanted JSON"),
        (b"{", "wanted JSON"),
        (b"{} {}", "wanted JSON"),
        (b"\x00" * 300, "wanted JSON"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "too large"),
        (b"-1e999", "too large"),
        (b"9" * 301, "digits"),
        (b"9" * 5000, "digits"),
        (b"0." + b"1" * 400, "too long"),
        (b"[" * 100_000, "levels deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "levels deep"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\uDFff":1}', "surrogate"),
        ('"é"'.encode("latin-1"), "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'"' + b"a" * jsontext.LARGEST + b'"', "bytes"),
        (b"[" + b"0," * jsontext.MOST_VALUES + b"0]", "values"),
        (b"[" + b"{}," * (jsontext.MOST_VALUES // 2) + b"0]", "values"),
    ],
)
def test_everything_else_is_refused_with_one_kind_of_error(data, words):
    with pytest.raises(EmoGuardError, match=words):
        jsontext.parse(data)


def test_depth_is_counted_in_containers():
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        for deepest in (1, 2, 64):
            jsontext.parse(opening * deepest + b"0" + closing * deepest, deepest=deepest)
            with pytest.raises(EmoGuardError):
                jsontext.parse(opening * (deepest + 1) + b"0" + closing * (deepest + 1),
                               deepest=deepest)  # fmt: skip
    jsontext.parse(b"[]", deepest=1)
    with pytest.raises(EmoGuardError):
        jsontext.parse(b"[[]]", deepest=1)


def test_half_a_pair_in_a_text_is_refused_as_in_bytes():
    with pytest.raises(EmoGuardError, match="UTF-8"):
        jsontext.parse('"\ud800"')


def test_a_pair_of_surrogates_is_a_character():
    assert jsontext.parse(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert jsontext.parse(b'"\\ud83d"', surrogates=True) == "\ud83d"


def test_every_number_is_finite_as_a_float():
    largest = jsontext.parse(b"9" * jsontext.LONGEST_NUMBER)
    assert math.isfinite(float(largest))
    assert jsontext.parse(b"[1e308, 18446744073709551615]") == [1e308, 2**64 - 1]
