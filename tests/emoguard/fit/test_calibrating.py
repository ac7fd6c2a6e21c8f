"""Calibrating files of the same weights on one file's responses."""

import dataclasses
import json

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import calibrating
from emoguard.fit.calibrating import NeutralSample, advice, calibrate_files, replaced
from emoguard.fit.responses import SHORTEST, Sampling, first_half, groups, responses
from emoguard.probe import artifact
from emoguard.sinks.policy import AlarmPolicy
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    FakeSpeaker,
    make_calibration,
    make_probe,
)

PROBE = make_probe(FakeResiduals())
PROMPTS = [f"What is number {n} of the list of rivers?" for n in range(40)]
ALARMS = AlarmPolicy(window_tokens=12)
SAMPLE = NeutralSample(PROMPTS, Sampling(tokens=16), 10, ALARMS)
QUANTISED = dataclasses.replace(FAKE_IDENTITY, quantisation="Q4_0")


def other(noise=0.1):
    """A speaker on another file of the same weights."""
    return FakeSpeaker(FakeResiduals(QUANTISED, noise))


def nothing(*_):
    """Follow no progress."""


def run(tmp_path, speaker=None, others=(), before=(), *, sample=SAMPLE, progress=nothing):
    out = str(tmp_path / "out.safetensors")
    return calibrate_files(
        PROBE,
        before,
        speaker or FakeSpeaker(),
        others,
        sample=sample,
        out=out,
        progress=progress,
    )


def test_every_file_reads_the_same_responses_and_only_the_first_responds(tmp_path):
    first, second = FakeSpeaker(), other()
    calibrations = run(tmp_path, first, [lambda: second])
    assert [each.identity for each in calibrations] == [FAKE_IDENTITY, QUANTISED]
    assert calibrations[0].tokens == calibrations[1].tokens
    assert first.prompts
    assert not second.prompts


def test_it_stops_with_enough_responses_as_long_as_the_window(tmp_path):
    speaker = FakeSpeaker(shortest=6)
    (calibration,) = run(tmp_path, speaker)
    generated = list(responses(FakeSpeaker(shortest=6), PROMPTS, SAMPLE.sampling))
    whole = np.cumsum([len(each.token_ids) >= ALARMS.window_tokens for each in generated])
    count = int(np.searchsorted(whole, SAMPLE.wanted)) + 1
    assert len(speaker.prompts) == count < len(PROMPTS)
    long_enough = [each for each in generated[:count] if len(each.token_ids) >= SHORTEST]
    assert calibration.responses == len(long_enough)


def test_the_context_says_what_the_responses_depend_on(tmp_path):
    (calibration,) = run(tmp_path)
    assert calibration.context == SAMPLE.sampling.context(FAKE_IDENTITY.template, PROMPTS)
    assert (calibration.curve.window, calibration.curve.hysteresis) == (12, ALARMS.hysteresis_sd)


def test_responses_are_made_once(tmp_path):
    run(tmp_path)
    again = FakeSpeaker()
    run(tmp_path, again)
    assert not again.prompts


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = run(tmp_path / "whole")
    speaker = FakeSpeaker()
    respond = speaker.respond

    def breaking(prompt):
        if len(speaker.prompts) == 4:
            raise KeyboardInterrupt
        return respond(prompt)

    speaker.respond = breaking
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, speaker)
    rest = FakeSpeaker()
    (calibration,) = run(tmp_path, rest)
    assert rest.prompts[0].seed == 4
    assert (calibration.location == whole[0].location).all()


def test_responses_of_another_model_are_not_taken_over(tmp_path):
    run(tmp_path)
    with pytest.raises(EmoGuardError, match=r"answers of other inputs"):
        run(tmp_path, other(0.0))


def test_the_probe_is_written_after_every_file(tmp_path, monkeypatch):
    plain, seen = calibrating.read, []

    def breaking(*arguments, **options):
        if seen:
            raise EmoGuardError("injected")
        seen.append(arguments)
        return plain(*arguments, **options)

    monkeypatch.setattr(calibrating, "read", breaking)
    with pytest.raises(EmoGuardError, match="injected"):
        run(tmp_path, None, [other], [make_calibration(PROBE, QUANTISED)])
    _, calibrations = artifact.load(tmp_path / "out.safetensors")
    assert [each.identity for each in calibrations] == [QUANTISED, FAKE_IDENTITY]


@pytest.mark.parametrize(
    "identity",
    [dataclasses.replace(FAKE_IDENTITY, layers=7), dataclasses.replace(QUANTISED, hidden=48)],
)
def test_another_model_is_refused_before_the_first_response(tmp_path, identity):
    speaker = FakeSpeaker()
    with pytest.raises(EmoGuardError, match="was made for a fake model"):
        run(tmp_path, speaker, [lambda: FakeSpeaker(FakeResiduals(identity))])
    assert not speaker.prompts
    assert not list(tmp_path.iterdir())


def test_responses_shorter_than_the_window_are_refused_before_any_is_made():
    with pytest.raises(EmoGuardError, match="at least the 12 of the alarm window, got 11"):
        dataclasses.replace(SAMPLE, sampling=Sampling(tokens=11))


def test_progress_counts_whole_responses_and_then_each_file(tmp_path):
    seen = []
    run(tmp_path, None, [other], progress=lambda *step: seen.append(step))
    tasks = list(dict.fromkeys(task for task, _, _ in seen))
    assert tasks == ["responding", "reading F32", "reading Q4_0"]
    for task in tasks:
        steps = [(done, size) for name, done, size in seen if name == task]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_calibrations_of_the_same_file_are_replaced_and_others_kept():
    old = [make_calibration(PROBE, each) for each in (FAKE_IDENTITY, QUANTISED)]
    new = [make_calibration(PROBE, QUANTISED)]
    assert replaced(old, new) == [old[0], new[0]]
    assert replaced([], new) == new
    assert replaced(old, []) == old


def test_without_a_template_the_first_half_of_a_prompt_is_continued_without_system_prompt():
    for has_template in (True, False):
        speaker = FakeSpeaker(has_template=has_template)
        list(groups(speaker, PROMPTS[:2], Sampling(8, 0.5, "Be brief."), start=1))
        (prompt,) = speaker.prompts
        wanted = (PROMPTS[1], "Be brief.") if has_template else (first_half(PROMPTS[1]), "")
        assert (prompt.text, prompt.system) == wanted
        assert (prompt.max_tokens, prompt.temperature, prompt.seed) == (8, 0.5, 1)


def test_advice_names_what_is_missing(tmp_path):
    (calibration,) = run(tmp_path)
    whole = calibration.curve.responses
    assert f"got {whole}: give --responses 600" in advice(calibration, 10, 600)
    assert f"got {whole}: give more prompts" in advice(calibration, 600, 600)
    assert "rate_per_1000_tokens" in advice(calibration, 10, whole)


def test_the_work_file_is_bound_to_model_prompts_and_sampling(tmp_path):
    run(tmp_path)
    head = json.loads((tmp_path / "out.safetensors.answers.jsonl").read_text().splitlines()[0])
    assert head["bound"]["model"] == FAKE_IDENTITY.digest
    assert head["bound"]["tokens"] == "16"
    changed = dataclasses.replace(SAMPLE, prompts=PROMPTS[1:])
    with pytest.raises(EmoGuardError, match=r"other inputs .prompts differ"):
        run(tmp_path, sample=changed)
