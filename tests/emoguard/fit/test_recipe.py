import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import recipe
from emoguard.fit.corpora import Label, Text
from emoguard.fit.extraction import pool, skipped_tokens
from emoguard.testing import FakeResiduals

LABELS = [Label("happy", ("happy",), 1), Label("sad", ("sad",), -1)]
WORDS = {"happy": ["sun", "cake", "dance"], "sad": ["rain", "grave", "tears"]}
FILLER = [
    "the",
    "house",
    "stood",
    "near",
    "a",
    "road",
    "with",
    "some",
    "trees",
    "and",
    "one",
    "old",
    "gate",
]


def story(label, seed):
    rng = np.random.default_rng([seed, len(label)])
    words = list(rng.choice(FILLER, 10)) + list(rng.choice(WORDS.get(label, FILLER), 6))
    return " ".join(rng.permutation(words))


def corpus(topics=6, per_cell=4):
    return [
        Text(label, f"topic{t}", story(label, 100 * t + n))
        for label in WORDS
        for t in range(topics)
        for n in range(per_cell)
    ]


NEUTRAL = [Text("", "", story("neutral", n)) for n in range(20)]


class Planted(FakeResiduals):
    """Residuals that depend on the word alone, as a direction in one layer would."""

    def residuals(self, token_ids, layers):
        out = np.empty((len(layers), len(token_ids), self.identity.hidden), np.float32)
        for n, layer in enumerate(layers):
            for t, token in enumerate(token_ids):
                out[n, t] = np.random.default_rng([layer, token]).normal(size=out.shape[2])
        return out


def test_fit_separates_labels_on_texts_it_has_not_seen():
    door = Planted()
    probe = recipe.fit(door, [corpus()], NEUTRAL, LABELS, name="t", keep=2, skip=2)
    assert probe.labels == ("happy", "sad", "valence")
    assert probe.axes == ("valence",)
    fresh = {k: [story(k, 9000 + n) for n in range(20)] for k in WORDS}
    z = {
        k: np.array(
            [probe.project(door.residuals(door.tokenize(s), probe.layers))[1:].mean(0) for s in v]
        )
        for k, v in fresh.items()
    }
    assert z["happy"][:, 0].mean() > z["sad"][:, 0].mean()
    assert z["sad"][:, 1].mean() > z["happy"][:, 1].mean()
    assert z["happy"][:, 2].mean() > z["sad"][:, 2].mean()
    assert probe.card["held_out_auroc"]["happy"] > 0.9


def test_fit_on_shuffled_labels_finds_nothing():
    texts = corpus(topics=12, per_cell=8)
    rng = np.random.default_rng(0)
    shuffled = [Text(str(rng.choice(list(WORDS))), t.topic, t.text) for t in texts]
    probe = recipe.fit(Planted(), [shuffled], NEUTRAL, LABELS, name="t", layers=[2], skip=2)
    assert abs(probe.card["held_out_auroc"]["happy"] - 0.5) < 0.2


def test_fit_counts_every_corpus_the_same_and_reports_progress():
    seen = []
    small, large = corpus(topics=3, per_cell=1), corpus()
    recipe.fit(
        Planted(), [small, large], NEUTRAL, LABELS, name="t", layers=[1], progress=seen.append
    )
    assert seen == sorted(set(seen))
    assert seen[-1] == len(NEUTRAL) + len(small) + len(large)


def test_fixed_layers_are_kept_and_wrong_ones_refused():
    probe = recipe.fit(Planted(), [corpus()], NEUTRAL, LABELS, name="t", layers=[1, 3])
    assert probe.layers == (1, 3)
    with pytest.raises(EmoGuardError, match=r"\[0, 4\]"):
        recipe.fit(Planted(), [corpus()], NEUTRAL, LABELS, name="t", layers=[5])


def test_too_few_texts_are_refused_with_what_is_needed():
    with pytest.raises(EmoGuardError, match="16 neutral"):
        recipe.fit(Planted(), [corpus()], NEUTRAL[:5], LABELS, name="t")
    happy = [t for t in corpus() if t.label == "happy"]
    with pytest.raises(EmoGuardError, match="label sad"):
        recipe.fit(Planted(), [happy], NEUTRAL, LABELS, name="t")
    with pytest.raises(EmoGuardError, match="both signs"):
        recipe.fit(Planted(), [corpus()], NEUTRAL, LABELS[:1], name="t")


def test_pooling_leaves_out_leading_tokens_and_never_more_than_half():
    assert skipped_tokens(100, 20) == 20
    assert skipped_tokens(10, 20) == 5
    assert skipped_tokens(100, 0) == 1
    door = FakeResiduals()
    ids = door.tokenize("one two three four five six")
    wanted = door.residuals(ids, [2])[:, 3:].mean(axis=1)
    assert np.allclose(pool(door, ["one two three four five six"], [2], 20)[0], wanted, atol=1e-6)
    with pytest.raises(EmoGuardError, match="at least 4 tokens"):
        pool(door, ["no"], [2])
