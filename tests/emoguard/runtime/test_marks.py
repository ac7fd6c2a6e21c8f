import logging

import pytest

from emoguard.runtime.marks import KNOWN, NO_TOKEN, Marks, find_thinking
from emoguard.runtime.phases import REASONING, mark


def find(tokens, template="", named=None, end=""):
    vocabulary = {token: 100 + n for n, token in enumerate(tokens)}
    render = lambda messages, **_: messages[0]["content"] + end  # noqa: E731
    return find_thinking(vocabulary.get, template, render, lambda _: False, named)


@pytest.mark.parametrize("marks", KNOWN)
def test_every_family_is_known_by_its_vocabulary_and_its_template(marks):
    tokens = [*marks.opening, marks.closing, *marks.again]
    ids = {token: 100 + n for n, token in enumerate(tokens)}
    for template in ("", f"… {''.join(marks.opening)} …", f"… {marks.closing} …"):
        thinking = find(tokens, template)
        assert thinking is not None
        assert thinking.opening == tuple(ids[each] for each in marks.opening)
        assert thinking.closing == ids[marks.closing]
        assert thinking.again == tuple(ids[each] for each in marks.again)
        assert thinking.opens_prompts == (not template)
        assert REASONING in mark([1], [*thinking.opening, 7], thinking)


@pytest.mark.parametrize("marks", KNOWN)
def test_half_a_pair_and_a_template_that_does_not_speak_of_it_name_nothing(marks):
    tokens = [*marks.opening, marks.closing, *marks.again]
    assert find(set(tokens) - {marks.closing}) is None
    assert find(set(tokens) - {marks.opening[0]}) is None
    assert find(tokens, "{{ messages }}") is None


def test_a_word_that_is_no_token_opens_nothing():
    thinking = find(["<|channel|>", "<|message|>", "<|end|>", "<|start|>"])
    assert NO_TOKEN in thinking.opening
    assert REASONING not in mark([1], [100, 7, 101, 8, 102], thinking)[1:]


def test_marks_that_the_tokenizer_declares_come_first():
    own = Marks(("<mull>",), "</mull>")
    tokens = ["<think>", "</think>", "<mull>", "</mull>"]
    assert find(tokens, "<think></think>", own)[:2] == ((102,), 103)
    assert find(tokens[:2], "<think></think>", own)[:2] == ((100,), 101)


def test_a_template_that_can_end_in_the_mark_opens_reasoning():
    assert find(["<think>", "</think>"], "<think>", end="<think>\n").opens_prompts


def test_a_template_with_unknown_marks_is_logged(caplog):
    caplog.set_level(logging.WARNING)
    assert find([], "{% if enable_thinking %}<thought>{% endif %}") is None
    assert "reasoning counts as response" in caplog.text
    caplog.clear()
    assert find([], "{{ messages }}") is None
    assert not caplog.text
