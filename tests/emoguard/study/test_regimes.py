import pytest

from emoguard.study.regimes import read

PLAIN = [("the cat sat on the mat and looked at the moon", 2.0)] * 4


def test_texts_like_the_models_own_are_surgical():
    assert (
        read([("a dog lay by the door and heard the rain fall", 2.2)] * 4, PLAIN).regime
        == "surgical"
    )


def test_a_loop_is_repetitive_though_a_model_finds_it_cheap():
    actual = read([("so happy " * 12, 0.3)] * 4, PLAIN)
    assert actual.ratio < 1
    assert actual.regime == "repetitive"


SILENT = ("", 0.0)


def test_a_dose_that_silences_the_model_is_broken_and_no_likelier_text():
    actual = read([SILENT] * 2 + PLAIN[:2], PLAIN)
    assert actual.ratio == pytest.approx(1)
    assert actual.failed == pytest.approx(0.5)
    assert actual.regime == "broken"
    # An empty answer has no tokens to be surprised by: it hides no surprise of the others.
    assert read([SILENT] * 2 + [("a dog lay by the door", 5.0)], PLAIN).ratio > 20


@pytest.mark.parametrize("texts", [([SILENT], PLAIN), (PLAIN, [SILENT]), ([SILENT], [SILENT])])
def test_where_nothing_is_said_nothing_is_surgical(texts):
    assert read(*texts).ratio is None
    assert read(*texts).regime == "broken"


def test_one_failed_text_of_twelve_is_chance_and_two_are_not():
    for failed, regime in ((1, "surgical"), (2, "broken")):
        texts = [("...", 2.0)] * failed + PLAIN[:1] * (12 - failed)
        assert read(texts, PLAIN).regime == regime
    # Texts that fail as often unsteered are the model's own.
    assert read([("...", 2.0)] * 4, [("...", 2.0)] * 4).regime == "surgical"


def test_surprising_texts_and_other_scripts_are_broken():
    assert read([("colourless fish walls under seven loud", 2.5)] * 4, PLAIN).regime == "broken"
    assert read([("кот сидел на окне и смотрел", 2.0)] * 4, PLAIN).regime == "broken"
    assert read([("so happy " * 12, 5.0)] * 4, PLAIN).regime == "broken"
