import functools
import itertools
from contextlib import contextmanager

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.study.dose import DOSES, Spoken, interval, measure
from emoguard.study.stage import with_random_directions
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

PROMPTS = [f"prompt {n}" for n in range(40)]


class FakeStage:
    """Says "good" as often as the happy dose asks for; random directions change nothing on average.

    Above `coherent` the text is all one word, and surprising.
    """

    def __init__(self, strength=4.0, randoms=19, coherent=0.25):
        self.randoms = tuple(f"random-{n}" for n in range(randoms))
        self.strength = strength
        self.coherent = coherent
        self.bounds = []

    @contextmanager
    def bounded(self, bound):
        self.bounds.append(bound)
        yield functools.partial(self.speak, np.random.default_rng(len(self.bounds)))

    def speak(self, rng, _prompt, plans):
        return [self.say(rng, plan.add if plan else {}) for plan in plans]

    def say(self, rng, add):
        dose = sum(add.values())
        if abs(dose) > self.coherent:
            return Spoken("good good good good good good good good", abs(dose))
        chance = 0.5 + self.strength * add.get("happy", 0) / 2
        words = rng.random(12) < np.clip(chance, 0, 1)
        return Spoken(" ".join(f"{'good' if w else 'bad'} {rng.integers(99)}" for w in words), dose)

    def surprise(self, _prompt, text):
        return 5.0 if text.startswith("good good good") else 1.0


def judge(text):
    words = text.split()
    return (words.count("good") - words.count("bad")) / len(words)


def run(stage, labels=(("happy", 1), ("sad", -1)), prompts=PROMPTS):
    return measure(stage, judge, prompts, labels)


def test_a_direction_that_works_beats_random_ones_and_its_flip_goes_the_other_way():
    happy, _ = run(FakeStage()).labels
    effect, flipped = happy.test
    assert effect.effect > effect.random_high
    assert effect.low > 0
    assert effect.p == pytest.approx(1 / 20)
    assert flipped.effect < flipped.random_low
    assert flipped.p == pytest.approx(1 / 20)


def test_a_direction_that_does_nothing_is_said_to_do_nothing():
    _, sad = run(FakeStage()).labels
    for effect in (*sad.test, *sad.default):
        assert effect.low < 0.1
        assert effect.high > -0.1
        assert effect.p > 0.05


def test_the_largest_surgical_dose_is_chosen_and_larger_ones_are_not_surgical():
    happy, _ = run(FakeStage()).labels
    assert happy.chosen == 0.2
    assert {e.dose for e in happy.curve if e.regime != "surgical"} == {-0.4, 0.4}
    assert [e.dose for e in happy.curve] == sorted([*DOSES, *(-d for d in DOSES)])
    assert max(e.perplexity_ratio for e in happy.curve) == pytest.approx(np.exp(4))


def test_a_dose_that_silences_the_model_is_not_chosen():
    class Falling(FakeStage):
        def say(self, rng, add):
            return Spoken("", 0.2) if add.get("happy", 0) > 0.1 else super().say(rng, add)

        def surprise(self, prompt, text):
            return super().surprise(prompt, text) if text else 0.0

    (happy,) = measure(
        Falling(randoms=0), lambda text: judge(text) if text else 1.0, PROMPTS, [("happy", 1)]
    ).labels
    assert happy.chosen == 0.1
    silent = [effect for effect in happy.curve if effect.dose > 0.1]
    assert {(each.regime, each.perplexity_ratio) for each in silent} == {("broken", None)}


def test_without_a_surgical_dose_the_smallest_is_tested():
    happy, _ = run(FakeStage(coherent=0.0)).labels
    assert happy.chosen == min(DOSES)


def test_the_dose_is_chosen_on_one_half_and_tested_on_the_other():
    seen = []

    class Listening(FakeStage):
        def speak(self, rng, prompt, plans):
            seen.append((len(self.bounds), prompt))
            return super().speak(rng, prompt, plans)

    run(Listening())
    choosing = {prompt for stage, prompt in seen if stage == 1}
    testing = {prompt for stage, prompt in seen if stage > 1}
    assert len(choosing) == len(testing) == 20
    assert not choosing & testing


def test_the_default_bound_is_the_bound_of_its_own_test():
    stage = FakeStage()
    happy, _ = run(stage).labels
    assert stage.bounds[0] == 0.5
    assert stage.bounds[-1] == 0.1
    assert [e.dose for e in happy.default] == [0.1, -0.1]
    assert {e.bound for e in happy.default} == {0.1}


def test_without_random_directions_there_is_no_p():
    happy, _ = run(FakeStage(randoms=0)).labels
    assert happy.test[0].p is None


def test_too_few_prompts_are_refused():
    with pytest.raises(EmoGuardError, match="at least 4 prompts, got 3"):
        run(FakeStage(), prompts=PROMPTS[:3])


def test_a_label_named_twice_is_refused_before_anything_is_said():
    stage = FakeStage()
    with pytest.raises(EmoGuardError, match="labels: happy is named twice"):
        run(stage, labels=(("happy", 1), ("sad", -1), ("happy", 1)))
    assert not stage.bounds


@pytest.mark.slow
def test_p_is_uniform_for_a_direction_without_effect():
    class Null(FakeStage):
        def __init__(self, seed):
            super().__init__(strength=0.0, randoms=19)
            self.seed = seed

        @contextmanager
        def bounded(self, bound):
            self.bounds.append(bound)
            yield functools.partial(
                self.speak, np.random.default_rng([self.seed, len(self.bounds)])
            )

    results = [run(Null(seed), prompts=PROMPTS[:8]).labels[0].default[0].p for seed in range(60)]
    assert 0.4 < np.mean(results) < 0.65
    assert np.mean(np.array(results) <= 0.1) < 0.25


def test_the_interval_covers_the_mean_of_the_draws():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = interval(rng.normal(0.3, 1, 40))
        hits += low <= 0.3 <= high
    assert 0.88 < hits / 200 <= 1


def test_random_directions_are_unit_the_same_at_every_layer_and_leave_the_labels_alone():
    probe = make_probe(FakeResiduals(), ("happy", "sad"), (1, 2, 3))
    calibration = make_calibration(probe, FAKE_IDENTITY)
    more, wider = with_random_directions(probe, calibration, ("r0", "r1", "r2"))
    assert more.labels == ("happy", "sad", "r0", "r1", "r2")
    assert np.array_equal(more.steer[:, :2], probe.steer)
    drawn = more.steer[:, 2:]
    assert np.allclose(np.linalg.norm(drawn, axis=-1), 1, atol=1e-6)
    for one, other in itertools.pairwise(drawn):
        assert np.array_equal(one, other)
    wider.check_fits(5, 3)
