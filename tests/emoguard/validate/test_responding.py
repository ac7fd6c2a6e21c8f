"""The model's responses to held-out prompts, made once and compared."""

import dataclasses

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import corpora
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, FakeSpeaker, make_calibration, make_probe
from emoguard.validate import responding
from emoguard.validate.responding import Hearing, calibrated

PROBE = make_probe(FakeResiduals())


def hearing(tmp_path, languages=(), neutral=3):
    return Hearing(tmp_path / "answers.jsonl", neutral, 16, languages)


def test_prompts_are_held_out_neutral_ones_and_then_those_of_each_kind(tmp_path):
    prompts = hearing(tmp_path).prompts()
    kinds = [prompt.kind for prompt in prompts]
    assert kinds[:4] == ["neutral"] * 3 + ["persona"]
    assert kinds == sorted(kinds, key=["neutral", "persona", "benign"].index)
    texts = {prompt.text for prompt in prompts if prompt.kind == "neutral"}
    assert not texts & set(corpora.neutral_prompts()[: corpora.CALIBRATING])


def test_further_languages_are_neutral_prompts_with_their_tag(tmp_path):
    (tmp_path / "fragen.txt").write_text("Was ist ein Fluss?\nWas ist ein Berg?\n")
    prompts = hearing(tmp_path, (f"de={tmp_path / 'fragen.txt'}",)).prompts()
    german = [prompt for prompt in prompts if prompt.language == "de"]
    assert [prompt.kind for prompt in german] == ["neutral"] * 2
    with pytest.raises(EmoGuardError, match="--language takes TAG=FILE"):
        hearing(tmp_path, ("de",)).prompts()


def test_without_a_calibration_of_the_file_nothing_is_measured():
    own = make_calibration(PROBE, FAKE_IDENTITY)
    other = make_calibration(PROBE, dataclasses.replace(FAKE_IDENTITY, quantisation="Q2_K"))
    assert calibrated(PROBE, [other, own], FAKE_IDENTITY) is own
    with pytest.raises(EmoGuardError, match=r"make one with fit it, or validate with --no-on-pol"):
        calibrated(PROBE, [other], FAKE_IDENTITY, "fit it")


def test_responses_are_made_once_and_in_the_order_of_the_prompts(tmp_path):
    prompts = hearing(tmp_path, neutral=2).prompts()[:5]
    first, again, seen = FakeSpeaker(), FakeSpeaker(), []

    def respond(speaker):
        return responding._responses(
            speaker, prompts, hearing(tmp_path), lambda *step: seen.append(step)
        )

    responses = respond(first)
    assert [prompt.text for prompt in first.prompts] == [prompt.text for prompt in prompts]
    assert respond(again) == responses
    assert not again.prompts
    assert seen[-1] == ("responding", 5, 5)


def test_a_level_is_certified_in_both_files_or_a_share_of_their_neutral_responses():
    rng = np.random.default_rng(0)
    z = [rng.normal(size=(30, 2)).astype(np.float32) for _ in range(40)]
    other = [2 * rows for rows in z]
    neutral = np.arange(40) % 2 == 0
    certified = ([1.5, 2.0], [1.75, None])
    first, second = responding._flag_levels(certified, (z, other), neutral, 5)
    assert (first[0], second[0]) == (1.5, 1.75)
    assert second[1] == pytest.approx(2 * first[1], rel=1e-5)
    peaks = [
        np.convolve(rows[:, 1], np.full(5, 0.2), "valid").max()
        for rows, is_neutral in zip(z, neutral, strict=True)
        if is_neutral
    ]
    assert first[1] == pytest.approx(np.quantile(peaks, 0.95), abs=1e-4)


@pytest.mark.parametrize(("count", "wanted"), [(5, 10), (10, 5), (1, 1), (1000, 120)])
def test_some_of_many_are_spread_evenly_over_all(count, wanted):
    numbers = responding._spread(count, wanted)
    assert len(numbers) == min(count, wanted)
    assert (numbers[0], numbers[-1]) == (0, count - 1)
    assert len(set(np.diff(numbers))) <= 2
