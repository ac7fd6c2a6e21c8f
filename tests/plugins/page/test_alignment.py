from emoguard_page.alignment import Alignment, Span
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.lists(st.text("ab \n<", min_size=0, max_size=4), max_size=12)


def aligned(steps):
    """Return the spans of an alignment that takes these steps: text, or a (piece, token)."""
    alignment, spans = Alignment(), []
    for step in steps:
        if isinstance(step, str):
            alignment.add_text(step)
        else:
            alignment.add_token(*step)
        spans += alignment.take()
    return spans + alignment.take(end=True)


@given(WORDS, WORDS)
def test_the_text_is_the_servers_and_every_token_comes_once_in_order(text, pieces):
    spans = aligned([*text, *((piece, n) for n, piece in enumerate(pieces))])
    assert "".join(span.text for span in spans) == "".join(text)
    assert [span.token for span in spans if span.token is not None] == list(range(len(pieces)))


@given(WORDS, st.randoms(use_true_random=False))
def test_tokens_that_decode_to_the_text_have_it_in_any_rhythm(pieces, draw):
    text = list(pieces)
    tokens = [(piece, n) for n, piece in enumerate(pieces)]
    steps = []
    while text or tokens:
        source = draw.choice([each for each in (text, tokens) if each])
        steps.append(source.pop(0))
    assert aligned(steps) == [Span(piece, n) for n, piece in enumerate(pieces)]


def test_a_token_waits_for_its_text():
    alignment = Alignment()
    alignment.add_token(" hope", 0)
    alignment.add_text(" ho")
    assert alignment.take() == []
    alignment.add_text("pe and")
    assert alignment.take() == [Span(" hope", 0)]
    assert alignment.take(end=True) == [Span(" and", None)]


def test_a_blank_that_the_server_stripped_costs_no_token():
    assert aligned([(" Hi", 0), (" you", 1), "Hi you"]) == [Span("Hi", 0), Span(" you", 1)]


def test_a_stop_sequence_that_the_server_kept_back_has_no_text():
    spans = aligned(["Hi", ("Hi", 0), (" END", 1)])
    assert spans == [Span("Hi", 0), Span("", 1)]


def test_a_token_that_a_stop_sequence_cut_keeps_its_first_letters():
    assert aligned(["Hi th", ("Hi", 0), (" there", 1)]) == [Span("Hi", 0), Span(" th", 1)]


def test_words_that_the_server_put_in_have_no_token():
    spans = aligned([("Hi", 0), "Hi", "\n\nThis is an AI."])
    assert spans == [Span("Hi", 0), Span("\n\nThis is an AI.", None)]


def test_words_before_a_token_have_none():
    assert aligned(["> Hi", ("Hi", 0)]) == [Span("> ", None), Span("Hi", 0)]
