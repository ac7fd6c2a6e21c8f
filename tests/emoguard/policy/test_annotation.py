"""Values are read as annotations want them; what policies, plans and requests do with that is
tested there."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, nearest
from emoguard.policy import schema
from emoguard.policy.annotation import Mismatch, describe, reader

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
HINTS = [
    str, int, float, bool, str | None, tuple[str, ...], dict[str, float], Literal["a", "b"],
    Literal[1], tuple[dict[str, Any], ...],
]  # fmt: skip


@given(value=ANY, hint=st.sampled_from(HINTS))
def test_a_value_read_reads_as_itself_and_all_else_is_a_mismatch(value, hint):
    try:
        once = reader(hint)(value)
    except Mismatch as mismatch:
        assert str(mismatch).startswith("wanted ")  # noqa: PT017
    else:
        assert reader(hint)(once) == once


@given(value=ANY | st.integers(min_value=10**60) | st.just(10**5000) | st.just(object()))
def test_a_description_is_one_short_line(value):
    assert 0 < len(describe(value)) <= 60
    assert describe(value).isprintable()


@pytest.mark.parametrize("hint", [Any, int | str, tuple[int, int], list, object])
def test_an_annotation_that_no_record_of_ours_has_lets_everything_pass(hint):
    value = object()
    assert reader(hint)(value) is value


def test_true_is_no_number_and_no_word():
    for hint in (int, float, Literal[1]):
        with pytest.raises(Mismatch):
            reader(hint)(True)


class Unfriendly:
    """Fails whatever is asked of it, as proxies and mocks may."""

    __hash__ = None

    def __str__(self):
        raise RuntimeError

    __repr__ = __eq__ = __bool__ = __iter__ = __str__


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize(
    "value",
    [Unfriendly(), 10**5000, np.arange(2), Fraction(10**400)],
    ids=lambda v: type(v).__name__,
)
def test_nothing_is_asked_of_a_value_but_its_type(hint, value):
    with pytest.raises(Mismatch):
        reader(hint)(value)


def test_the_nearest_word_is_found_in_any_case():
    known = ("refuse", "clip")
    assert nearest.near(" REFUSE", known) == "refuse"
    assert nearest.near("stop", known) is None


@dataclass(frozen=True)
class Inner:
    numbers: tuple[int, ...] = ()

    def __post_init__(self):
        schema.check(self)


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None = None

    def __post_init__(self):
        schema.check(self)


def test_a_record_in_a_record_is_named_by_its_whole_place():
    assert Outer("a", {"numbers": [1]}) == Outer("a", Inner((1,)))
    with pytest.raises(EmoGuardError, match=r"^Outer\.inner\.numbers\.1: wanted a whole number"):
        Outer("a", {"numbers": [1, 2.5]})
    with pytest.raises(EmoGuardError, match=r"^Outer\.inner\.number: unknown; did you mean numb"):
        Outer("a", {"number": []})
    with pytest.raises(EmoGuardError, match=r"^Outer\.name: wanted text, got null"):
        Outer(None)
