import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import recipe
from emoguard.fit.corpora import Label, Text, recorded_labels
from emoguard.fit.directions import auroc
from emoguard.fit.extraction import pool
from emoguard.fit.leaks import leak_cautions
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


def probe_of(corpora, labels=LABELS, *, skip=2, layers=()):
    """The probe that `emoguard fit` makes of texts, before it is judged."""
    door = Planted()

    def read(texts):
        return pool(door, [text.text for text in texts], range(door.identity.layers - 1), skip)

    pools = [
        recipe.Pooled(
            read(texts), np.array([t.label for t in texts]), np.array([t.topic for t in texts])
        )
        for texts in corpora
    ]
    leaks = leak_cautions(corpora, labels)
    return recipe.make(
        door, pools, read(NEUTRAL), labels, name="t", layers=layers, skip=skip, leaks=leaks
    )


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


def test_a_probe_separates_labels_on_texts_it_has_not_seen():
    door = Planted()
    probe = probe_of([corpus()])
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


def test_fixed_layers_are_kept():
    assert probe_of([corpus()], layers=[1, 3]).layers == (1, 3)


def test_without_signs_there_is_no_axis_and_the_rest_is_the_same(tmp_path):
    unsigned = [Label(label.name, label.words, 0) for label in LABELS]
    signed, plain = probe_of([corpus()]), probe_of([corpus()], unsigned)
    assert plain.labels == tuple(label.name for label in LABELS)
    assert plain.axes == ()
    assert np.array_equal(plain.read, signed.read[:, :-1])
    assert recorded_labels(plain.recipe) == unsigned
    artifact.save(tmp_path / "p.safetensors", plain)
    assert artifact.load(tmp_path / "p.safetensors")[0].axes == ()


def test_words_of_their_label_in_texts_are_a_caution_of_the_probe():
    texts = corpus()
    happy = [n for n, text in enumerate(texts) if text.label == "happy"]
    for n in happy[:2]:
        texts[n] = Text("happy", texts[n].topic, f"{texts[n].text} happily", f"c.jsonl:{n}")
    (sentence,) = [each for each in probe_of([texts]).cautions if "own label" in each]
    assert f"(happy 2 of {len(happy)}; the first at c.jsonl:{happy[0]})" in sentence
