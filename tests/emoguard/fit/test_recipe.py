import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import recipe
from emoguard.fit.corpora import Label, Text, recorded_labels
from emoguard.fit.directions import auroc
from emoguard.fit.recipe import Recipe
from emoguard.probe import artifact
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


def pooled(seed, shift=0.0, topics=12, per_cell=3):
    """A corpus whose labels lie apart along fixed directions at layers 2 and 3."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(list(WORDS), topics * per_cell)
    residuals = rng.normal(size=(len(labels), 5, 24)) + shift
    for n, label in enumerate(WORDS):
        residuals[labels == label, 2:4, n] += 2.0
    names = np.tile(np.repeat([f"topic{n:02}" for n in range(topics)], per_cell), len(WORDS))
    return recipe.Pooled(residuals.astype(np.float32), labels, names)


PLAIN = np.random.default_rng(5).normal(size=(40, 5, 24)).astype(np.float32)


def macro(fitted, corpus):
    scores = fitted.scores(corpus.residuals)
    return np.mean([auroc(scores[:, n], corpus.labels == k) for n, k in enumerate(fitted.names)])


def test_directions_hold_on_another_corpus_and_layers_are_found():
    fitted = recipe.fit_directions([pooled(0), pooled(1)], PLAIN, list(WORDS), Recipe(keep=2))
    assert fitted.layers == (2, 3)
    assert np.allclose(np.linalg.norm(fitted.steer, axis=2), 1)
    assert macro(fitted, pooled(2, shift=3.0)) > 0.95


def test_scores_of_all_labels_have_unit_spread_over_the_fitting_texts():
    corpora = [pooled(0), pooled(1, topics=30)]
    fitted = recipe.fit_directions(corpora, PLAIN, list(WORDS), layers=[1, 2])
    spread = np.mean([fitted.scores(c.residuals).var(axis=0) for c in corpora], axis=0)
    assert np.allclose(spread, 1)


def test_shuffled_labels_teach_nothing():
    corpus = pooled(0)
    shuffled = np.random.default_rng(1).permutation(corpus.labels)
    wrong = recipe.Pooled(corpus.residuals, shuffled, corpus.topics)
    assert abs(macro(recipe.fit_directions([wrong], PLAIN, list(WORDS)), pooled(2)) - 0.5) < 0.2


def test_each_corpus_counts_the_same_whatever_its_size():
    small, large = pooled(0), pooled(1)
    three = recipe.Pooled(*(np.concatenate([a] * 3) for a in vars(large).values()))
    one, many = (
        recipe.fit_directions([small, each], PLAIN, list(WORDS), layers=[2]).steer
        for each in (large, three)
    )
    assert np.allclose(one, many)


def test_a_name_without_texts_gets_no_direction_and_no_score():
    fitted = recipe.fit_directions([pooled(0)], PLAIN, [*WORDS, "calm"], layers=[2])
    assert np.all(fitted.steer[:, 2] == 0)
    assert np.all(fitted.scores(PLAIN)[:, 2] == 0)


def test_a_label_without_a_text_to_fit_on_or_to_hold_out_has_no_score(tmp_path):
    whole = pooled(1)
    out = whole.held_out()
    for missing in (out, ~out):
        kept = (whole.labels != "happy") | ~missing
        part = recipe.Pooled(whole.residuals[kept], whole.labels[kept], whole.topics[kept])
        scores = recipe.layer_scores([part], PLAIN, ["happy", "sad"])
        assert np.isnan(scores[:, 0]).all()
        card = recipe._card(scores, (2,), ["happy", "sad"])
        assert card["held_out_auroc"]["happy"] is None
        with pytest.raises(EmoGuardError, match="layers cannot be chosen"):
            recipe.best_layers(scores[:, :1], 2)
        assert recipe.best_layers(
            np.column_stack([scores[:, 0], [0.5, 0.5, 0.9, 0.8, 0.1]]), 2
        ) == (
            2,
            3,
        )


def test_layers_are_chosen_without_looking_at_the_first():
    scores = np.array([[0.9, 0.9], [0.6, 0.5], [0.7, np.nan], [0.5, 0.5]])
    assert recipe.best_layers(scores, 2) == (1, 2)


def test_fit_separates_labels_on_texts_it_has_not_seen(tmp_path):
    door = Planted()
    probe = recipe.fit(door, [corpus()], NEUTRAL, LABELS, tmp_path, name="t", skip=2)
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


def test_progress_counts_every_text_and_what_is_there_is_not_read_again(tmp_path):
    seen = []
    corpora = [corpus(topics=3, per_cell=1), corpus()]
    total = len(NEUTRAL) + sum(map(len, corpora))

    def fit():
        return recipe.fit(
            Planted(), corpora, NEUTRAL, LABELS, tmp_path, name="t", progress=seen.append
        )

    first = fit()
    assert seen == sorted(seen)
    assert seen[-1] == total
    calls = len(seen)
    assert np.array_equal(fit().read, first.read)
    assert len(seen) - calls <= 3


def test_fixed_layers_are_kept_and_wrong_ones_refused(tmp_path):
    probe = recipe.fit(Planted(), [corpus()], NEUTRAL, LABELS, tmp_path, name="t", layers=[1, 3])
    assert probe.layers == (1, 3)
    with pytest.raises(EmoGuardError, match=r"\[0, 4\]"):
        recipe.fit(Planted(), [corpus()], NEUTRAL, LABELS, tmp_path, name="t", layers=[5])


def test_too_few_texts_are_refused_with_what_is_needed(tmp_path):
    with pytest.raises(EmoGuardError, match="16 neutral"):
        recipe.fit(Planted(), [corpus()], NEUTRAL[:5], LABELS, tmp_path, name="t")
    happy = [t for t in corpus() if t.label == "happy"]
    with pytest.raises(EmoGuardError, match="label sad"):
        recipe.fit(Planted(), [happy], NEUTRAL, LABELS, tmp_path, name="t")
    with pytest.raises(EmoGuardError, match="name two at least"):
        recipe.fit(Planted(), [corpus()], NEUTRAL, LABELS[:1], tmp_path, name="t")


def test_without_signs_there_is_no_axis_and_the_rest_is_the_same(tmp_path):
    unsigned = [Label(label.name, label.words, 0) for label in LABELS]
    signed = recipe.fit(Planted(), [corpus()], NEUTRAL, LABELS, tmp_path, name="t")
    made = recipe.fit(Planted(), [corpus()], NEUTRAL, unsigned, tmp_path, name="t")
    assert made.labels == tuple(label.name for label in LABELS)
    assert made.axes == ()
    assert np.array_equal(made.read, signed.read[:, :-1])
    assert recorded_labels(made.recipe) == unsigned
    artifact.save(tmp_path / "p.safetensors", made)
    assert artifact.load(tmp_path / "p.safetensors")[0].axes == ()


def test_a_word_of_its_label_in_a_text_is_a_caution_of_the_probe(tmp_path):
    texts = corpus()
    n, first = next((n, text) for n, text in enumerate(texts) if text.label == "happy")
    texts[n] = Text("happy", first.topic, f"{first.text} happily", "c.jsonl:1")
    made = recipe.fit(Planted(), [texts], NEUTRAL, LABELS, tmp_path, name="t")
    assert any("(happy 1; the first at c.jsonl:1)" in sentence for sentence in made.cautions)
