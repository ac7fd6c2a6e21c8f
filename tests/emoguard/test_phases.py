import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emoguard.phases import PREPARATION, REASONING, RESPONSE, mark

OPEN, CLOSE = 100, 101
TOKENS = st.lists(st.sampled_from([1, 2, OPEN, CLOSE]), max_size=12)


def inside_after(tokens):
    """Whether the text after `tokens` is inside a mark: the last mark, if any, opens."""
    last = [token for token in tokens if token in (OPEN, CLOSE)][-1:]
    return last == [OPEN]


@given(prompt=TOKENS, tokens=TOKENS)
def test_phases_equal_their_definition_token_by_token(prompt, tokens):
    wanted = [
        PREPARATION
        if index == 0
        else REASONING
        if inside_after(prompt + tokens[:index]) or token == OPEN
        else RESPONSE
        for index, token in enumerate(tokens)
    ]
    assert mark(prompt, tokens, (OPEN, CLOSE)).tolist() == wanted


@given(prompt=TOKENS, tokens=TOKENS)
def test_without_marks_everything_after_the_first_token_is_response(prompt, tokens):
    assert mark(prompt, tokens).tolist() == [PREPARATION, *[RESPONSE] * len(tokens)][: len(tokens)]


def test_a_prompt_that_ends_in_an_open_mark_starts_in_reasoning():
    phases = mark([5, OPEN], [1, 2, CLOSE, 3], (OPEN, CLOSE))
    assert phases.tolist() == [PREPARATION, REASONING, REASONING, RESPONSE]


def test_reasoning_of_an_earlier_turn_is_closed():
    assert REASONING not in mark([OPEN, 1, CLOSE, 2], [3, 4, 5], (OPEN, CLOSE))


def test_nothing_generated_has_no_phases():
    assert mark([1], []).dtype == np.uint8
    assert len(mark([OPEN], [], (OPEN, CLOSE))) == 0
