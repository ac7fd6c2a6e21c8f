"""What a text tells without a model, and when there is nothing to take it from."""

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit.textonly import TextOnly, counted

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
    vectors, found = counted(texts)
    assert set(vectors.get_feature_names_out()) == {"今天", "高兴", "昨天", "难过", "孩子"}
    assert found.shape == (4, 5)
    scores = detectors(texts).scores(texts)["TF-IDF, centroid"]
    assert np.array_equal(scores.argmax(axis=1), [0, 1, 0, 1])
