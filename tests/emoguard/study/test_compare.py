"""A comparison finds planted differences of known size, where they are, and none in a copy."""

import dataclasses
import math

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import geometry
from emoguard.fit.recipe import Recipe
from emoguard.study import compare as comparing
from emoguard.study.compare import check_pair, compare
from emoguard.study.comparison import Read
from emoguard.testing import FAKE_IDENTITY
from emoguard.validate.judged import Task
from tests.emoguard.validate import planted
from tests.emoguard.validate.planted import TASK

NEUTRAL = planted.neutral().residuals
EFFECT = 12.0
WITHOUT_DOMINATING = Recipe(neutral_variance=0.95)
"""Takes out both dimensions that dominate these residuals, as they do those of real models."""


def read(effect=EFFECT, **how):
    return Read(planted.corpus("a", effect, **how), NEUTRAL)


def turned(degrees, effect=EFFECT, seed=0):
    """The same texts in a model whose label directions are turned by an angle, out of their span.

    Only the layers with an effect are touched, and the noise of one seed is the same.
    """
    plain, own, foreign = (
        planted.corpus("a", e, world=w, seed=seed).residuals
        for e, w in ((0, 0), (effect, 0), (effect, 1))
    )
    angle = math.radians(degrees)
    states = plain + math.cos(angle) * (own - plain) + math.sin(angle) * (foreign - plain)
    texts = planted.corpus("a", effect, seed=seed)
    return Read(dataclasses.replace(texts, residuals=states.astype(np.float32)), NEUTRAL)


@pytest.fixture(scope="module")
def noisy():
    """Ten comparisons of equal directions, measured with independent noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "SHUFFLES", 2)  # chance is not what is looked at
        patch.setattr(geometry, "PERMUTATIONS", 2)
        return [independent(0, seed) for seed in range(10)]


def independent(degrees, seed=0):
    a, b = turned(0, 2.0, 2 * seed), turned(degrees, 2.0, 2 * seed + 1)
    sides = [
        Read(
            dataclasses.replace(each.texts, residuals=each.texts.residuals[:, 2:3]), NEUTRAL[:, :1]
        )
        for each in (a, b)
    ]
    return compare(TASK, *sides, layers=[0], recipe=WITHOUT_DOMINATING)


def directional(actual):
    """Every estimate of what noise lowers, or raises."""
    yield from (*actual.cosines.values(), actual.cosine, actual.overlap)
    yield from (*actual.angles, *actual.by_layer)


def numbers(actual):
    """Every paired number of a comparison."""
    yield from (*actual.separation.values(), actual.macro)
    yield from (getattr(actual.valence, f.name) for f in dataclasses.fields(actual.valence))


def covers(estimate, value, slack=0.0):
    return estimate.low - slack <= value <= estimate.high + slack


def test_an_identical_copy_differs_in_nothing():
    comparison = compare(TASK, read(1.0), read(1.0))
    for each in numbers(comparison):
        assert (each.difference.low, each.difference.value, each.difference.high) == (0, 0, 0)
    assert set(comparison.cosines) == set(TASK.targets)
    for each in (
        *comparison.cosines.values(),
        comparison.cosine,
        comparison.overlap,
        *comparison.by_layer,
    ):
        assert each.low == pytest.approx(1, abs=1e-9)
    assert all(angle.high < 0.01 for angle in comparison.angles)


@pytest.mark.parametrize("degrees", [30, 60])
def test_a_planted_angle_is_found_with_its_size_and_place(degrees):
    comparison = compare(TASK, read(), turned(degrees), layers=[1, 2], recipe=WITHOUT_DOMINATING)
    wanted = math.cos(math.radians(degrees))
    for each in comparison.cosines.values():
        assert covers(each, wanted, 0.02)
        assert each.high < wanted + 0.1
    assert all(covers(angle, degrees, 2.0) for angle in comparison.angles)
    assert covers(comparison.overlap, wanted**2, 0.03)
    # Nothing was planted in layer 0.
    assert comparison.by_layer[0].low > 0.999
    assert covers(comparison.by_layer[2], wanted, 0.02)
    # Turned directions separate as well as before.
    assert covers(comparison.macro.difference, 0)


@pytest.mark.slow
def test_intervals_of_noisy_directions_hold_their_estimate_and_the_truth(noisy):
    """Percentiles of resamples, which have the noise twice, hold neither."""
    hits = np.array([[covers(e, e.value) for e in directional(actual)] for actual in noisy])
    assert hits.all()
    truth = (*[1.0] * len(TASK.targets), 1.0, 1.0, *[0.0] * 3, 1.0)
    hits = np.array(
        [
            [covers(e, t, 1e-6) for e, t in zip(directional(actual), truth, strict=True)]
            for actual in noisy
        ]
    )
    # An interval of 95 % misses more than 3 times of 10 with a probability of .001.
    assert hits.sum(axis=0).min() >= 7


@pytest.mark.slow
def test_equal_directions_are_as_near_as_the_ceiling_and_turned_ones_are_not(noisy):
    assert np.mean([f.cosine.value for f in noisy]) < 0.93
    for target in TASK.targets:
        above = [f.cosines[target].value - f.ceilings[target] for f in noisy]
        assert np.mean(above) == pytest.approx(0, abs=0.02)
    assert all(f.ceiling_by_layer == (pytest.approx(f.ceiling),) for f in noisy)
    apart = independent(60)
    assert apart.cosine.value < apart.ceiling - 0.3
    assert apart.cosine.high < 0.7


def test_a_copy_lies_above_the_ceiling_because_it_has_the_same_noise():
    comparison = compare(TASK, read(1.0), read(1.0), layers=[2])
    assert 0.4 < comparison.ceiling < 0.9
    assert comparison.ceiling == pytest.approx(
        np.mean([comparison.ceilings[n] for n in TASK.names])
    )


def test_a_weaker_direction_is_found_by_its_separation():
    comparison = compare(TASK, read(2.0), read(1.0), layers=[2])
    assert comparison.macro.difference.high < -0.03
    assert comparison.macro.a.low > comparison.macro.words.high
    assert comparison.macro.chance == 0.5
    # It points where it did.
    assert comparison.cosine.low > 0.9


def test_the_difference_of_two_models_is_paired():
    """Shared topics make both go up and down together: their difference is known better."""
    comparison = compare(TASK, read(1.0), read(1.05), layers=[2])
    width = comparison.macro.difference.high - comparison.macro.difference.low
    assert width < 0.5 * (comparison.macro.a.high - comparison.macro.a.low)


def test_directions_of_another_world_are_as_near_as_shuffled_labels():
    comparison = compare(TASK, read(), turned(90), layers=[2])
    assert comparison.cosine.value < comparison.cosine_chance
    assert comparison.cosine_chance < 0.8


def test_texts_without_spaces_are_refused_with_a_remedy():
    texts = read().texts
    wordless = dataclasses.replace(texts, texts=[f"今天{n}很高兴" for n in range(len(texts))])
    with pytest.raises(EmoGuardError, match="put spaces between its words"):
        compare(TASK, Read(wordless, NEUTRAL), Read(wordless, NEUTRAL), layers=[2])


def test_word_counts_stand_beside_the_models():
    words = {"word_share": 0.5}
    comparison = compare(TASK, read(0.2, **words), read(0.2, **words), layers=[2])
    assert comparison.macro.words.low > 0.9
    assert comparison.macro.a.value < comparison.macro.words.low
    assert comparison.valence.rank.words.value in (1, 2, 3)  # three components of four labels


def test_layers_are_common_and_chosen_where_both_are_good():
    comparison = compare(TASK, read(layers=(0, 1, 1, 0)), read(layers=(0, 0, 1, 1)))
    assert comparison.layers == (1, 2, 3)
    assert len(comparison.by_layer) == planted.LAYERS


def test_labels_of_one_sign_have_no_valence():
    one = Task(("sad", "angry"), (-1, -1))
    texts = planted.corpus("a", 2.0, labels=one.names)
    comparison = compare(one, Read(texts, NEUTRAL), Read(texts, NEUTRAL), layers=[2])
    assert comparison.valence is None
    assert set(comparison.cosines) == {"sad", "angry"}


def test_missing_and_unsplittable_labels_are_refused():
    with pytest.raises(EmoGuardError, match="at least 10 texts to hold some out, got happy 8, ca"):
        compare(TASK, read(topics=2), read(topics=2))
    with pytest.raises(EmoGuardError, match=r"layers must lie in \[0, 3\], got \[4\]"):
        compare(TASK, read(), read(), layers=[2, 4])
    one = read(per_cell=12)
    kept = (one.texts.labels != "happy") | (one.texts.topics == "a0")
    one = Read(one.texts.take(kept), one.neutral)
    with pytest.raises(EmoGuardError, match="the 12 texts of label happy are all of topics"):
        compare(TASK, one, one)
    with pytest.raises(EmoGuardError, match="at least two labels"):
        compare(Task(("sad",), (-1,)), read(), read())


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"architecture": "gemma3"}, "gemma3"),
        ({"layers": 30}, "30 layers"),
        ({"hidden": 64}, "width 64"),
    ],
    ids=str,
)
def test_models_of_different_families_are_refused_by_name(changes, shown):
    other = dataclasses.replace(FAKE_IDENTITY, name="another", **changes)
    with pytest.raises(EmoGuardError, match="only models of one family") as error:
        check_pair(FAKE_IDENTITY, other, [], ([], []))
    assert "another" in str(error.value)
    assert shown in str(error.value)


def test_the_same_family_is_named_differently_by_the_runtimes():
    gguf, hf = (
        dataclasses.replace(FAKE_IDENTITY, architecture=n) for n in ("gemma3", "gemma3_text")
    )
    check_pair(gguf, hf, ["a hen"], ([[1, 5, 6]], [[1, 5, 6]]))


def test_different_tokenisers_are_refused_with_the_text_they_differ_in():
    with pytest.raises(EmoGuardError, match="different tokenisers: 'a hen eats' is 3 tokens"):
        check_pair(
            FAKE_IDENTITY, FAKE_IDENTITY, ["so", "a hen eats"], ([[1], [1, 2, 3]], [[1], [1, 2]])
        )
