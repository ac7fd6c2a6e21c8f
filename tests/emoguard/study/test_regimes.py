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


def test_surprising_texts_and_other_scripts_are_broken():
    assert read([("colourless fish walls under seven loud", 2.5)] * 4, PLAIN).regime == "broken"
    assert read([("кот сидел на окне и смотрел", 2.0)] * 4, PLAIN).regime == "broken"
    assert read([("so happy " * 12, 5.0)] * 4, PLAIN).regime == "broken"
