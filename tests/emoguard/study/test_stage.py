"""Generating under plans on the smallest runtime."""

import dataclasses

import pytest

from emoguard import Guard, Plan
from emoguard.runtime.watch import Watch
from emoguard.study.stage import SpeakerStage
from emoguard.testing import FAKE_IDENTITY, FakeJoint, FakeSpeaker, make_calibration, make_probe

TOKENS = 12


class Terse(FakeSpeaker):
    """Ends every answer at half of its tokens."""

    def batch(self, prompts, requests, *, tokens, **_):
        return [
            self.model.generate(prompt, tokens // 2, emoguard=request)
            for prompt, request in zip(prompts, requests, strict=True)
        ]

    def surprise(self, before, after):
        return 0.0


class Seeded(Terse):
    """Keeps the seed of every batch."""

    def __init__(self):
        super().__init__()
        self.seeds = []

    def batch(self, prompts, requests, *, seed, **options):
        self.seeds.append(seed)
        return super().batch(prompts, requests, **options)


def test_batches_of_one_prompt_draw_different_noise_and_again_the_same(monkeypatch):
    monkeypatch.setattr(
        "emoguard.study.stage.attach", lambda model, guard: Watch(guard, FakeJoint(model))
    )
    monkeypatch.setattr("emoguard.study.stage.ROWS", 2)
    speaker = Seeded()
    probe = make_probe(speaker.door)
    guard = Guard(probe, [make_calibration(probe, FAKE_IDENTITY)])
    stage = SpeakerStage(speaker, guard, randoms=0, tokens=TOKENS)
    with stage.bounded(0.1) as speak:
        for prompt in ("Once upon", "Once upon", "It was"):
            speak(prompt, [None] * 5)
    first, again, other = (speaker.seeds[n : n + 3] for n in (0, 3, 6))
    assert len(set(first)) == 3
    assert first == again
    assert not {*first} & {*other}


def test_the_share_of_clipped_tokens_is_of_those_that_were_generated(monkeypatch):
    monkeypatch.setattr(
        "emoguard.study.stage.attach", lambda model, guard: Watch(guard, FakeJoint(model))
    )
    speaker = Terse()
    probe = make_probe(speaker.door)
    calibration = make_calibration(probe, FAKE_IDENTITY)
    # Steps measured by norms far too long: the bound cuts every one.
    long = dataclasses.replace(calibration, norms=100 * calibration.norms)
    stage = SpeakerStage(speaker, Guard(probe, [long]), randoms=0, tokens=TOKENS)
    with stage.bounded(0.1) as speak:
        plain, steered = speak("Once upon", [None, Plan(add={"happy": 0.1})])
    assert (plain.dose, plain.clipped) == (0.0, 0.0)
    assert steered.dose == pytest.approx(0.1, rel=0.01)
    assert steered.clipped == 1.0
