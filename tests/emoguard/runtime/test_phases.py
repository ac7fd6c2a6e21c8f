import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard.runtime.phases import PREPARATION, REASONING, RESPONSE, Thinking, mark

BLANK, OPEN, CLOSE = 10, 100, 101
MARKS = Thinking(OPEN, CLOSE, is_blank=lambda token: token == BLANK)
TOKENS = st.lists(st.sampled_from([1, 2, BLANK, OPEN, CLOSE]), max_size=12)


def kinds(prompt, tokens):
    """The phases but for the first token's, which is preparation whatever it is."""
    body = [token for token in prompt if token != BLANK]
    inside, answering, found = bool(body) and body[-1] == OPEN, False, []
    for token in tokens:
        opens = token == OPEN and not answering
        found.append(REASONING if inside or opens else RESPONSE)
        if found[-1] == REASONING:
            inside = token != CLOSE
        elif token != BLANK:
            answering = True
    return found


@given(prompt=TOKENS, tokens=TOKENS)
def test_phases_equal_their_definition_token_by_token(prompt, tokens):
    wanted = [PREPARATION, *kinds(prompt, tokens)[1:]][: len(tokens)]
    assert mark(prompt, tokens, MARKS).tolist() == wanted


@given(prompt=TOKENS, tokens=TOKENS)
def test_without_marks_everything_after_the_first_token_is_response(prompt, tokens):
    assert mark(prompt, tokens).tolist() == [PREPARATION, *[RESPONSE] * len(tokens)][: len(tokens)]


def test_a_prompt_that_ends_in_an_open_mark_starts_in_reasoning():
    phases = mark([5, OPEN], [1, 2, CLOSE, 3], MARKS)
    assert phases.tolist() == [PREPARATION, REASONING, REASONING, RESPONSE]
    assert REASONING in mark([5, OPEN, BLANK], [1, 2], MARKS)


@pytest.mark.parametrize(
    "prompt",
    [
        [OPEN, 1, CLOSE, 2],
        [1, OPEN, 2],
        [OPEN, OPEN, 1],
        [OPEN, 1, BLANK],
        [1, OPEN, CLOSE],
        [1, OPEN, BLANK, CLOSE, BLANK],
        [CLOSE, OPEN, 1],
    ],
)
def test_marks_inside_the_prompt_are_text_that_somebody_wrote(prompt):
    assert REASONING not in mark(prompt, [3, 4, 5], MARKS)


@given(prompt=TOKENS, tokens=TOKENS)
def test_the_end_of_a_prompt_counts_only_where_the_template_can_have_written_it(prompt, tokens):
    told = MARKS._replace(opens_prompts=False)
    assert np.array_equal(mark(prompt, tokens, told), mark([1], tokens, MARKS))


@given(answer=st.lists(st.sampled_from([1, 2, OPEN, CLOSE]), max_size=8))
def test_nothing_hides_an_answer_once_it_has_begun(answer):
    tokens = [1, OPEN, 2, CLOSE, OPEN, *answer]
    assert REASONING not in mark([5], tokens, MARKS)
    assert REASONING not in mark([5, OPEN], [2, CLOSE, *tokens], MARKS)[2:]


def test_a_model_may_reason_before_its_answer_and_again():
    tokens = [BLANK, OPEN, 1, CLOSE, BLANK, OPEN, 2, CLOSE, 3, OPEN]
    wanted = [PREPARATION, *[REASONING] * 3, RESPONSE, *[REASONING] * 3, RESPONSE, RESPONSE]
    assert mark([5], tokens, MARKS).tolist() == wanted


def test_nothing_generated_has_no_phases():
    assert mark([1], []).dtype == np.uint8
    assert len(mark([OPEN], [], MARKS)) == 0
