"""What a text tells without a model, and when there is nothing to take it from."""

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit.textonly import TEXT_ONLY, TextOnly, counted, standardised

CHINESE = ["我今天很高兴。", "他昨天非常难过!", "孩子们笑了。", "她在雨中哭泣。"]
LABELS = np.array(["happy", "sad", "happy", "sad"])


def detectors(texts):
    return TextOnly(texts, LABELS, ("happy", "sad"), (1, -1))


def test_texts_without_a_common_word_are_refused_with_what_to_do():
    with pytest.raises(EmoGuardError) as error:
        detectors(CHINESE)
    for part in ("at least two texts", "none in 4 texts of 7 characters", "words are split at spa"):
        assert part in str(error.value)
    assert CHINESE[0][:3] not in str(error.value)


def test_the_same_language_with_spaces_is_counted():
    texts = ["我 今天 很 高兴", "我 昨天 难过", "孩子 今天 高兴", "孩子 昨天 难过"]
    vectors, counts = counted(texts)
    assert set(vectors.get_feature_names_out()) == {"今天", "高兴", "昨天", "难过", "孩子"}
    assert counts.shape == (4, 5)
    scores = detectors(texts).scores(texts)["TF-IDF, centroid"]
    assert np.array_equal(scores.argmax(axis=1), [0, 1, 0, 1])


NAMES, SIGNS = ("glad", "low", "never"), (1, -1, -1)
TRAINING = ["sun and cake today", "cake and sun again", "rain and fog today", "fog and rain again"]
DETECTOR_LABELS = np.array(["glad", "glad", "low", "low"])


@pytest.fixture(scope="module")
def detector():
    return TextOnly(TRAINING, DETECTOR_LABELS, NAMES, SIGNS)


def test_words_that_go_with_a_name_score_for_it(detector):
    scores = detector.scores(["more sun, more cake", "fog, then rain"])
    for name in ("TF-IDF, logistic", "TF-IDF, centroid"):
        glad, low = scores[name][:, 0], scores[name][:, 1]
        assert glad[0] > glad[1]
        assert low[1] > low[0]


def test_a_lexicon_scores_with_the_sign_of_the_name(detector):
    scores = detector.scores(["What a wonderful, lovely day!", "A horrible, awful disaster."])
    vader = scores["VADER"]
    assert vader[0, 0] > vader[1, 0]
    assert vader[0, 1] < vader[1, 1]


def test_a_name_without_a_training_text_has_no_score(detector):
    scores = detector.scores(["sun", "fog"])
    assert set(scores) == {*TEXT_ONLY, "length"}
    assert all(np.isnan(each[:, 2]).all() for each in scores.values())
    assert not detector.directions[2].any()


def test_scores_are_standardised_over_the_texts_that_are_scored(detector):
    scores = detector.scores(["sun and cake", "rain", "today", "a fog again"])
    for each in scores.values():
        known = each[:, :2]
        np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-9)
        assert set(known.std(axis=0).round(9)) <= {0.0, 1.0}


def test_a_constant_becomes_zero():
    scores = standardised(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(scores, [[-1, 0], [1, 0]])
