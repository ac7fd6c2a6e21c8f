import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard.runtime.attention import only_token, sink_length, sink_rows

TOKENS = st.lists(st.integers(1, 2), max_size=6)


@given(prompt=TOKENS, tokens=TOKENS)
def test_a_row_is_at_a_sink_where_all_tokens_before_its_own_are_one(prompt, tokens):
    seen = [prompt + tokens[:n] for n in range(len(tokens))]
    wanted = [bool(prompt) and len(set(before)) == 1 for before in seen]
    rows = sink_rows(prompt, tokens)
    assert wanted == [n < rows for n in range(len(tokens))]


@given(tokens=TOKENS)
def test_a_sink_reaches_up_to_the_first_other_token(tokens):
    length = sink_length(tokens)
    assert len(set(tokens[:length])) <= 1
    assert length == len(tokens) or tokens[length] != tokens[0]
    assert (only_token(tokens) is not None) == (0 < length == len(tokens))


@pytest.mark.parametrize(
    ("prompt", "tokens", "rows"),
    [
        ([7], [3, 4, 5], 1),
        ([7] * 400, [3, 4], 1),
        ([7], [7, 7, 3, 7], 3),
        ([7, 3], [7, 7], 0),
        ([7], [], 0),
        ([], [7, 7], 0),
    ],
)
def test_one_token_is_a_sink_however_often_it_is_repeated(prompt, tokens, rows):
    assert sink_rows(prompt, tokens) == rows
