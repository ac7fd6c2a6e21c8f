"""What a validation says of planted directions, of the text alone and of nothing."""

import dataclasses

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit.corpora import Text
from emoguard.fit.recipe import Recipe, fit_directions
from emoguard.testing import FakeResiduals, make_probe
from emoguard.validate import card, carddata, plots
from emoguard.validate.human import Family, family_task
from emoguard.validate.judged import MODEL, Task, judge
from emoguard.validate.nulls import chance, layer_profile, point_areas
from emoguard.validate.validation import validate
from tests.emoguard.validate import planted
from tests.emoguard.validate.planted import HIDDEN, LAYERS, TASK, corpus, neutral

pytestmark = pytest.mark.slow

NEUTRAL = neutral()


def three(effect, **how):
    return [corpus(name, effect, **how) for name in "abc"]


@pytest.fixture(scope="module")
def strong():
    return validate(TASK, three(6.0), NEUTRAL, probe=file_of(three(6.0)))


@pytest.fixture(scope="module")
def nothing():
    return validate(TASK, three(0.0), NEUTRAL)


def file_of(corpora, *, read=None):
    """A probe as the recipe makes it of corpora, or with other read directions."""
    fitted = fit_directions([c.pooled for c in corpora], NEUTRAL.residuals, TASK.names)
    directions = np.asarray(fitted.read if read is None else read, np.float32)
    signs = np.array(TASK.signs)
    axis = directions[:, signs > 0].mean(axis=1) - directions[:, signs < 0].mean(axis=1)
    identity = dataclasses.replace(FakeResiduals().identity, hidden=HIDDEN, layers=LAYERS + 1)
    probe = make_probe(FakeResiduals(identity), TASK.targets, tuple(fitted.layers))
    return dataclasses.replace(
        probe,
        read=np.concatenate([directions, axis[:, None]], axis=1).astype(np.float32),
        centre=np.asarray(fitted.centre, np.float32),
        weights=np.asarray(fitted.weights, np.float32),
        axes=("valence",),
    )


def test_a_planted_direction_transfers_and_word_counts_do_not(strong):
    assert set(strong.verdicts) == set(TASK.targets)
    assert set(strong.verdicts.values()) == {"usable"}
    assert strong.left_out.macro.model.low > 0.9
    assert abs(strong.left_out.macro.words.value - 0.5) < 0.06
    assert strong.left_out.macro.difference.low > 0.3
    assert strong.left_out.top1_chance == 0.25
    assert strong.left_out.top1.model.low > 0.6
    assert abs(strong.left_out.length - 0.5) < 0.05


def test_embeddings_without_the_direction_read_nothing(strong):
    model = strong.embeddings.macro.model
    assert model.value < 0.56


def test_the_planted_layer_is_found_and_its_choice_corrected(strong, nothing):
    best = int(np.argmax(strong.profile.areas))
    assert best == 2
    assert strong.profile.p <= 0.002
    assert nothing.profile.p > 0.05
    assert nothing.profile.level > 0.5


def test_without_an_effect_no_label_is_usable_or_weak(nothing):
    assert set(nothing.verdicts.values()) == {"not usable"}
    assert all(abs(s.macro - 0.5) < 0.12 for s in nothing.shuffled.values())


def test_what_words_tell_as_well_is_not_usable_however_good_the_model():
    result = validate(TASK, three(6.0, word_share=0.4), NEUTRAL)
    assert result.left_out.macro.model.low > 0.9
    assert result.left_out.macro.words.value > 0.98
    assert set(result.verdicts.values()) == {"weak"}


@pytest.mark.parametrize("seed", range(3))
def test_a_probe_fitted_on_shuffled_labels_is_not_usable_for_every_label(seed):
    corpora = three(6.0)
    wrong = file_of([c.shuffled(seed) for c in corpora])
    result = validate(TASK, corpora, NEUTRAL, probe=wrong)
    assert set(result.verdicts) == set(TASK.targets)
    assert set(result.verdicts.values()) == {"not usable"}


@pytest.mark.parametrize("seed", range(3))
def test_a_probe_of_random_directions_is_not_usable_for_every_label(seed):
    corpora = three(6.0)
    right = file_of(corpora)
    drawn = np.random.default_rng(seed).normal(size=right.read[:, :-1].shape)
    result = validate(TASK, corpora, NEUTRAL, probe=file_of(corpora, read=drawn))
    assert set(result.verdicts.values()) == {"not usable"}


@pytest.mark.parametrize("seed", range(3))
def test_corpora_with_shuffled_labels_make_no_label_usable_or_weak(seed):
    corpora = [c.shuffled(100 + seed) for c in three(6.0)]
    result = validate(TASK, corpora, NEUTRAL)
    assert set(result.verdicts.values()) == {"not usable"}


@pytest.mark.parametrize("seed", range(3))
def test_two_corpora_with_shuffled_labels_make_no_label_usable(seed):
    """Of two writers, one with many texts and one with few, as the package's own are."""
    corpora = [corpus("a", 6.0, topics=24, per_cell=3), corpus("b", 6.0, topics=24, per_cell=1)]
    assert set(validate(TASK, corpora, NEUTRAL).verdicts.values()) == {"usable"}
    shuffled = [c.shuffled(200 + seed) for c in corpora]
    result = validate(TASK, shuffled, NEUTRAL, probe=file_of(shuffled))
    assert "usable" not in result.verdicts.values()


@pytest.mark.parametrize("seed", range(3))
def test_one_corpus_with_shuffled_labels_is_not_usable_rather_than_untested(seed):
    result = validate(TASK, [corpus("a", 6.0).shuffled(300 + seed)], NEUTRAL)
    assert set(result.verdicts.values()) == {"not usable"}


def test_a_corpus_of_one_writer_shows_no_transfer_so_every_label_is_untested():
    result = validate(TASK, [corpus("a", 6.0)], NEUTRAL)
    assert result.left_out is None
    assert result.profile is None
    assert result.within["a"].macro.model.low > 0.9
    assert set(result.verdicts.values()) == {"untested"}


def test_a_label_that_one_corpus_alone_has_is_untested():
    corpora = [corpus("a", 6.0), corpus("b", 6.0, labels=("happy", "sad", "angry"))]
    result = validate(TASK, corpora, NEUTRAL)
    assert "calm" not in result.left_out.targets
    assert result.verdicts["calm"] == "untested"
    assert result.verdicts["sad"] == "usable"


def test_directions_of_two_worlds_do_not_transfer_though_each_is_clear_within():
    result = validate(TASK, [corpus("a", 6.0), corpus("b", 6.0, world=1)], NEUTRAL)
    assert all(c.macro.model.low > 0.85 for c in result.within.values())
    assert "usable" not in result.verdicts.values()


def test_halves_agree_on_what_is_there_and_dominating_dimensions_agree_on_nothing(strong, nothing):
    assert min(e.value for e in strong.halves.read.values()) > 0.5
    assert max(abs(e.value) for e in nothing.halves.read.values()) < 0.35
    # Raw cosines in the covariance of residuals stray as far as they can: that is no agreement.
    assert strong.halves.random.high > 0.8


def test_human_text_is_read_with_what_stories_gave():
    families = [Family("joy", ("happy", "calm"), (), 1), Family("grief", ("sad", "angry"), (), -1)]
    people = corpus("people", 6.0)
    named = np.where(np.isin(people.labels, ["happy", "calm"]), "joy", "grief")
    people = dataclasses.replace(people, labels=named, topics=np.full(len(people), ""))
    result = validate(TASK, three(6.0), NEUTRAL, human=people, families=families)
    assert set(result.human.targets) == {"joy", "grief", "valence"}
    assert result.human.targets["joy"].model.low > 0.8
    assert result.human.targets["valence"].words.low < 0.5


def test_a_lexicon_stands_beside_text_by_people_though_no_story_taught_it():
    families = [Family("joy", ("happy", "calm"), (), 1), Family("grief", ("sad", "angry"), (), -1)]
    people = corpus("people", 0.0)
    named = np.where(np.isin(people.labels, ["happy", "calm"]), "joy", "grief")
    texts = [
        f"{text} {'wonderful' if n == 'joy' else 'horrible'}"
        for text, n in zip(people.texts, named, strict=True)
    ]
    people = dataclasses.replace(people, texts=texts, labels=named, topics=np.full(len(people), ""))
    result = validate(TASK, three(6.0), NEUTRAL, human=people, families=families)
    for name in ("joy", "grief", "valence"):
        assert result.human.targets[name].words.low > 0.95


def test_families_that_have_no_label_are_refused():
    wrong = [Family("joy", ("glad",), (), 1), Family("grief", ("sad",), (), -1)]
    with pytest.raises(EmoGuardError, match="grief has one: give --families"):
        family_task(wrong, np.array(["joy", "grief"]), TASK.names)


def test_named_layers_are_those_that_are_judged():
    result = validate(TASK, three(6.0, layers=(0, 1, 0, 0)), NEUTRAL, layers=[3])
    assert result.layers == (3,)
    assert result.left_out.layers == ((3,),) * 3
    assert result.left_out.macro.model.value < 0.65, "the layer that holds it was looked at"
    assert set(result.verdicts.values()) == {"not usable"}


def test_held_out_texts_change_nothing_that_is_fitted():
    """Scores of a test text do not depend on the others, but for the common scale."""
    a, b = corpus("a", 6.0), corpus("b", 6.0)
    whole = judge(TASK, [a], b, NEUTRAL.residuals, recipe=Recipe(), words=False)
    half = np.arange(len(b)) % 2 == 0
    part = judge(TASK, [a], b.take(half), NEUTRAL.residuals, recipe=Recipe(), words=False)
    assert whole.layers == part.layers
    correlations = [
        np.corrcoef(x, y)[0, 1]
        for x, y in zip(whole.scores[MODEL][half].T, part.scores[MODEL].T, strict=True)
    ]
    assert np.allclose(correlations[:-1], 1, atol=1e-6)


def test_topics_are_held_out_whole():
    texts = corpus("a", 1.0)
    folds = texts.folds(5)
    for topic in np.unique(texts.topics):
        assert len(set(folds[texts.topics == topic])) == 1
    assert set(folds) == set(range(5))


def test_shuffling_keeps_the_labels_of_every_topic():
    texts = corpus("a", 1.0)
    mixed = texts.shuffled(0)
    assert not np.array_equal(mixed.labels, texts.labels)
    for topic in np.unique(texts.topics):
        rows = texts.topics == topic
        assert sorted(mixed.labels[rows]) == sorted(texts.labels[rows])


def test_a_topic_that_goes_with_an_emotion_looks_like_it_until_topics_are_crossed():
    """The trap: every emotion has its own topics, and the model only knows topics."""
    crossed = corpus("a", 0.0, topics=12, per_cell=4)
    own = np.array(
        [f"{t}/{label}" for t, label in zip(crossed.topics, crossed.labels, strict=True)]
    )
    rng = np.random.default_rng(5)
    effects = {topic: rng.normal(size=(LAYERS, HIDDEN)) for topic in sorted(set(own))}
    moved = crossed.residuals.copy()
    moved[:, :, 2:] += 3 * np.array([effects[topic] for topic in own])[:, :, 2:]
    confounded = dataclasses.replace(crossed, residuals=moved, topics=own)
    held_out = validate(TASK, [confounded], NEUTRAL).within["a"].macro.model
    # Texts held out at random share their topics with those that are fitted on.
    loose = dataclasses.replace(confounded, topics=np.full(len(own), ""))
    leaking = validate(TASK, [loose], NEUTRAL).within["a"].macro.model
    assert leaking.low > held_out.high
    assert held_out.low < 0.55


def test_permuting_labels_corrects_for_the_number_of_layers():
    """On nothing, the best of many layers is beyond what one layer's chance would allow."""
    false = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        texts = corpus("a", 0.0, seed=seed)
        scores = rng.normal(size=(len(texts), 25, len(TASK.names)))
        profile = layer_profile(TASK, [(texts, scores)], permutations=200)
        false += profile.p <= 0.05
    assert false <= 8


def test_chance_is_wider_than_a_bootstrap_interval_where_labels_differ_everywhere():
    corpora = three(6.0, layers=(1, 1, 1, 1))
    spread = chance(TASK, corpora, NEUTRAL.residuals, (2,), Recipe())
    # One text in 192 is worth .01 or so; a direction that means nothing is worth far more.
    assert spread.isotropic.target > 0.1
    assert spread.shuffled.target > spread.isotropic.target
    assert spread.shuffled.macro < spread.shuffled.target
    assert 0.5 < spread.file_macro < spread.file < 1


def test_point_areas_equal_those_with_an_interval():
    rng = np.random.default_rng(0)
    texts = corpus("a", 0.0)
    scores = rng.normal(size=(len(texts), len(TASK.targets)))
    judged = judge(TASK, [texts], texts, NEUTRAL.residuals, recipe=Recipe(), words=False)
    judged = dataclasses.replace(judged, scores={MODEL: scores})
    assert point_areas(scores, judged.positive) == pytest.approx(judged.areas(MODEL).value)


def test_too_few_texts_are_refused_with_what_is_needed():
    few = planted.corpus("a", 1.0, topics=3, per_cell=3)
    with pytest.raises(
        EmoGuardError, match=r"label happy needs at least 10 texts.* leave the label out"
    ):
        validate(TASK, [few], NEUTRAL)


def some(texts, **topics):
    """Keep the texts of a label that are of its first topics."""
    first = {t: n for n, t in enumerate(np.unique(texts.topics))}
    place = np.array([first[t] for t in texts.topics])
    most = np.array([topics.get(label, len(first)) for label in texts.labels])
    return texts.take(place < most)


def test_a_label_that_some_folds_lack_is_tested_in_the_others():
    uneven = [some(c, happy=3) for c in three(6.0, per_cell=6)]
    result = validate(TASK, uneven, NEUTRAL)
    for c in uneven:
        assert result.within[c.name].texts == len(c)
        assert result.within[c.name].targets["happy"].model.low > 0.8


def test_a_label_of_topics_that_are_held_out_together_is_refused():
    with pytest.raises(EmoGuardError, match="corpus a: the 12 texts of label happy are all of to"):
        validate(TASK, [some(corpus("a", 6.0, per_cell=12), happy=1), corpus("b", 6.0)], NEUTRAL)


def test_texts_without_topics_are_dealt_so_that_every_fold_has_every_label():
    texts = corpus("a", 6.0, topics=10, per_cell=1)
    texts = dataclasses.replace(texts, topics=np.full(len(texts), ""))
    for seed in range(20):
        folds = texts.folds(5, seed)
        for label in TASK.names:
            assert set(folds[texts.labels == label]) == set(range(5))
    assert np.any(texts.folds(5, 0) != texts.folds(5, 1))


def test_corpora_without_two_labels_in_common_are_not_fitted_on_each_other():
    a, b = (corpus(n, 6.0, labels=TASK.names[:3]) for n in "ab")
    c = corpus("c", 6.0, labels=TASK.names[2:])
    result = validate(TASK, [a, b, c], NEUTRAL)
    assert set(result.each_left_out) == {"a", "b"}
    assert {train: set(tests) for train, tests in result.pairs.items()} == {"a": {"b"}, "b": {"a"}}
    assert result.verdicts["angry"] == "untested"  # one corpus alone has it
    only = validate(TASK, [corpus("a", 6.0, labels=TASK.names[:2]), c], NEUTRAL)
    assert only.left_out is None
    assert only.pairs == {}


def test_labels_without_signs_are_judged_like_others_and_have_no_axis(tmp_path):
    task = Task(TASK.names, (0,) * 4)
    assert task.targets == task.names
    result = validate(task, [corpus("a", 6.0), corpus("b", 6.0)], NEUTRAL)
    assert result.axis is None
    assert result.verdicts == dict.fromkeys(TASK.names, "usable")
    assert result.plane.correlation == 0.0
    assert len(plots.draw(result, tmp_path, "unsigned")) == 4


def test_leaks_are_counted_in_the_card():
    text = Text("sad", "", "so sad", "c.jsonl:3")
    result = validate(TASK, [corpus("a", 6.0)], NEUTRAL, leaks={"sad": [text, text]})
    assert result.leaks == {"sad": 2}
    assert carddata.summary(result, carddata.NOTHING)["leaks"] == {"sad": 2}
    verdicts = card.tables(result)[0].note
    assert "Leaks, texts that hold a word of their own label: sad 2." in verdicts
    clean = dataclasses.replace(result, leaks={})
    assert "No text holds a word of its own label." in card.tables(clean)[0].note


def test_labels_of_one_sign_have_no_axis():
    task = Task(("happy", "calm"), (1, 1))
    assert task.targets == ("happy", "calm")
    scores = np.zeros((3, 2))
    assert task.with_axis(scores) is scores
