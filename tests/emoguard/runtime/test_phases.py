import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard.runtime.phases import PREPARATION, REASONING, RESPONSE, Marker, Thinking, mark

BLANK, OPEN, CLOSE = 10, 100, 101
MARKS = Thinking((OPEN,), CLOSE, is_blank=lambda token: token == BLANK)
TOKENS = st.lists(st.sampled_from([1, 2, BLANK, OPEN, CLOSE]), max_size=12)


def kinds(prompt, tokens):
    """The phases but for the first token's, which is preparation whatever it is."""
    body = [token for token in prompt if token != BLANK]
    inside, answering, actual = bool(body) and body[-1] == OPEN, False, []
    for token in tokens:
        opens = token == OPEN and not answering
        actual.append(REASONING if inside or opens else RESPONSE)
        if actual[-1] == REASONING:
            inside = token != CLOSE
        elif token != BLANK:
            answering = True
    return actual


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
def test_marks_inside_the_prompt_are_mere_text(prompt):
    assert REASONING not in mark(prompt, [3, 4, 5], MARKS)


@given(prompt=TOKENS, tokens=TOKENS)
def test_the_end_of_a_prompt_counts_only_where_the_template_can_have_written_it(prompt, tokens):
    shown = MARKS._replace(opens_prompts=False)
    assert np.array_equal(mark(prompt, tokens, shown), mark([1], tokens, MARKS))


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


@given(prompt=TOKENS, tokens=TOKENS)
def test_reasoning_that_is_never_closed_counts_as_response(prompt, tokens):
    phases, reasoning = Marker(prompt, MARKS).all(tokens, ended=True)
    is_open = bool(tokens) and mark(prompt, [*tokens, 1], MARKS)[-1] == REASONING
    assert reasoning == ("unclosed" if is_open else "marked")
    if not is_open:
        assert np.array_equal(phases, mark(prompt, tokens, MARKS))
    assert not is_open or phases[-1] == (RESPONSE if len(tokens) > 1 else PREPARATION)


def test_reasoning_that_was_closed_before_stays_reasoning():
    tokens = [OPEN, 1, CLOSE, OPEN, 2, 3]
    phases, reasoning = Marker([5], MARKS).all(tokens, ended=True)
    assert phases.tolist() == [PREPARATION, REASONING, REASONING, RESPONSE, RESPONSE, RESPONSE]
    assert reasoning == "unclosed"


def test_without_marks_it_is_unknown_whether_a_model_reasons():
    assert Marker([5]).all([1, 2], ended=True)[1] == "unknown"


CHANNEL, ANALYSIS, FINAL, MESSAGE, END, START, ASSISTANT = range(200, 207)
HARMONY = Thinking((CHANNEL, ANALYSIS, MESSAGE), END, (START, ASSISTANT))


def test_channels_are_told_apart_by_their_name():
    reasoning = [CHANNEL, ANALYSIS, MESSAGE, 1, 2, END]
    answer = [START, ASSISTANT, CHANNEL, FINAL, MESSAGE, 3, 4]
    phases = mark([START, ASSISTANT], [*reasoning, *answer], HARMONY).tolist()
    assert phases == [PREPARATION, *[REASONING] * 8, *[RESPONSE] * 4]
    again = mark([5], [*reasoning, START, ASSISTANT, *reasoning, *answer], HARMONY).tolist()
    assert again == [PREPARATION, *[REASONING] * 16, *[RESPONSE] * 4]
    assert REASONING not in mark([5], answer[2:], HARMONY)[1:]
    assert REASONING not in mark([5], [CHANNEL, FINAL, MESSAGE, 3, END, *reasoning], HARMONY)


def test_a_prompt_may_end_in_a_mark_of_several_tokens():
    assert REASONING in mark([5, CHANNEL, ANALYSIS, MESSAGE], [1, 2], HARMONY)
    assert REASONING not in mark([5, CHANNEL, MESSAGE], [1, 2], HARMONY)
