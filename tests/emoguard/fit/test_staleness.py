"""Scores that moved tell a changed model from another file of the same weights."""

import dataclasses

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import realign
from emoguard.fit.responses import Sampling, calibrate, responses
from emoguard.fit.staleness import ANSWERS, comparable, movement, sampling_of
from emoguard.probe.calibration import QUANTILES
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, FakeSpeaker, make_probe

PROMPTS = [f"What is number {n} of the list of rivers?" for n in range(60)]
SAMPLING = Sampling(tokens=24)
PROBE = make_probe(FakeResiduals())
QUANTISED = dataclasses.replace(FAKE_IDENTITY, quantisation="Q4_0")


class Trained(FakeResiduals):
    """A model whose residuals all moved along one label's direction, as after a LoRA."""

    def __init__(self, by):
        super().__init__(dataclasses.replace(FAKE_IDENTITY, weights="1" * 64))
        self.by = by

    def residuals(self, token_ids, layers):
        rows = super().residuals(token_ids, layers)
        for n, layer in enumerate(layers):
            if layer in PROBE.layers:
                rows[n, 1:] += self.by * PROBE.read[PROBE.layers.index(layer), 0]
        return rows


@pytest.fixture(scope="module")
def calibration():
    speaker = FakeSpeaker(shortest=16)
    return calibrate(
        speaker.door, PROBE, list(responses(speaker, PROMPTS, SAMPLING)),
        context=SAMPLING.context("", PROMPTS),
    )  # fmt: skip


def moved(door, calibration):
    return movement(FakeSpeaker(door, shortest=16), PROBE, [calibration], PROMPTS[10:])


def test_another_file_of_the_weights_has_not_moved(calibration):
    result = moved(FakeResiduals(QUANTISED, noise=0.1), calibration)
    assert result.moved == []
    assert result.witness > 0.98


def test_a_model_trained_further_has_and_the_label_is_named(calibration):
    by = 2.0 * float(calibration.scale[0])
    result = moved(Trained(by), calibration)
    assert result.moved[0] == "happy"
    assert result.shift[0] == pytest.approx(2.0, abs=0.5)
    assert result.largest > 8


def test_the_nearest_calibration_counts(calibration):
    far = dataclasses.replace(calibration, location=calibration.location + 9 * calibration.scale)
    speaker = FakeSpeaker(shortest=16)
    assert movement(speaker, PROBE, [far, calibration], PROMPTS[10:]).moved == []
    assert len(speaker.prompts) == ANSWERS


def test_only_calibrations_on_the_same_prompts_without_a_system_prompt_are_compared(calibration):
    others = [
        dataclasses.replace(calibration, context={**calibration.context, key: "0" * 64})
        for key in ("prompts", "system")
    ]
    unknown = dataclasses.replace(calibration, context={})  # one from before contexts were kept
    assert comparable([*others, calibration, unknown], PROMPTS) == [calibration, unknown]


def test_answers_are_sampled_as_the_calibration_was():
    context = Sampling(48, 0.3).context("", PROMPTS)
    sampled = dataclasses.replace(
        calibrate(FakeResiduals(), PROBE, list(responses(FakeSpeaker(), PROMPTS, SAMPLING))),
        context=context,
    )
    assert sampling_of(sampled) == Sampling(48, 0.3)
    assert sampling_of(dataclasses.replace(sampled, context={})) == Sampling()
    assert sampling_of(dataclasses.replace(sampled, context={"tokens": "x"})) == Sampling()


def test_realigned_keeps_the_shape_and_certifies_nothing(calibration):
    speaker = FakeSpeaker(Trained(3.0), shortest=16)
    few = calibrate(speaker.door, PROBE, list(responses(speaker, PROMPTS[:12], SAMPLING)))
    realigned = realign.realigned(calibration, few)
    assert np.array_equal(realigned.location, few.location)
    assert np.array_equal(realigned.means, calibration.means)
    assert realigned.means.shape[0] == QUANTILES
    assert realigned.curve is None
    assert realigned.identity == speaker.door.identity
    assert "realigned on" in realigned.cautions[0]


def test_directions_that_tell_nothing_apart_are_not_realigned():
    names = ("happy", "calm", "proud", "loving", "sad", "angry", "hostile", "frustrated")
    probe = make_probe(FakeResiduals(), (*names, "afraid", "nervous", "desperate", "guilty"))
    with pytest.raises(EmoGuardError, match=r"do not hold on this model any more: .* emoguard fit"):
        realign.check_directions(FakeResiduals(), probe)


def test_labels_that_none_of_our_texts_has_cannot_be_realigned():
    recipe = {"labels": {"sarcastic": {"words": ["sarcastic"]}, "sincere": {"words": ["sincere"]}}}
    probe = dataclasses.replace(
        make_probe(FakeResiduals(), ("sarcastic", "sincere")), recipe=recipe
    )
    with pytest.raises(EmoGuardError, match="no text of ours is about sarcastic, sincere"):
        realign.check_directions(FakeResiduals(), probe)


def test_realigned_keeps_the_doubts_about_its_own_answers(calibration):
    few = dataclasses.replace(calibration, cautions=("measured on poems",))
    assert realign.realigned(calibration, few).cautions[0] == "measured on poems"


def test_answers_that_are_all_too_short_are_an_error_and_no_movement(calibration):
    context = {"tokens": "4", "temperature": "0.7"}
    terse = dataclasses.replace(calibration, context=context)
    with pytest.raises(EmoGuardError, match="answers of at least 8 tokens, got none to 10 prompts"):
        movement(FakeSpeaker(), PROBE, [terse], PROMPTS[:10])
