"""Both runtimes speak alike: on tiny random models, and on SmolLM2 where it is installed."""

import dataclasses

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Request
from emoguard.runtime.attach import attach
from emoguard.runtime.openers import open_speaker
from emoguard.steering.plan import Plan
from emoguard.steering.policy import SteeringPolicy
from emoguard.study.matching import match
from emoguard.study.protocol import Protocol
from emoguard.study.speech import Given, Row, open_speech
from emoguard.study.study import guard_of
from emoguard.summary import _receipt as whole
from emoguard.testing import make_probe, measure_calibration
from tests.support import models, tiny_folder, tiny_gguf

ASKED = "how do I tie a scarf?"
TEMPERATURES = (0.0, 0.7, 1.0)
PROTOCOL = Protocol(
    labels=("happy", "desperate"), explored={"labels": []}, nulls={"directions": 8}, bound=0.5
)


def opened(path):
    """Return what opens the speech of a model, watched or not."""
    speaker = open_speaker(path)
    probe = make_probe(speaker.door, PROTOCOL.labels)
    calibrated = Guard(probe, [measure_calibration(speaker.door, probe)])
    guard = guard_of(PROTOCOL, calibrated, speaker.door)
    return lambda watched: open_speech(speaker, guard if watched else None)


@pytest.fixture(scope="module", params=["transformers", "llamacpp"])
def speaking(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    if request.param == "transformers":
        return opened(tiny_folder.write(folder))
    pytest.importorskip("llama_cpp")
    return opened(tiny_gguf.write(folder / "tiny.gguf", "llama"))


def rows(speech, plan, seed=0):
    before = speech.prompt(ASKED)
    return [Row(before, plan, temperature, seed, 5) for temperature in TEMPERATURES]


def test_a_zero_vector_changes_no_token_at_any_temperature(speaking):
    with speaking(True) as speech:
        text = speech.write([*rows(speech, None), *rows(speech, Plan(add={"happy": 0.0}))], 12)
    assert text[:3] == text[3:]
    assert all(each.dose == 0 for each in text)


def test_unsteered_answers_are_those_of_a_model_never_watched(speaking):
    with speaking(True) as speech:
        watched = speech.write(rows(speech, None), 12)
    with speaking(False) as speech:
        plain = speech.write(rows(speech, None), 12)
    assert watched == plain


def test_a_vector_realises_its_dose_and_other_seeds_draw_otherwise(speaking):
    with speaking(True) as speech:
        steered = speech.write(rows(speech, Plan(add={"happy": 0.2})), 12)
        first, second = (speech.write(rows(speech, None, n), 12) for n in (0, 1))
    assert all(0.05 < each.dose < 0.5 for each in steered)
    assert first[0] == second[0]
    assert first[2].token_ids != second[2].token_ids


STEERED = Plan(add={"happy": 0.2})


def test_an_answer_whose_steering_broke_is_refused_and_not_passed_off_as_steered(
    speaking, monkeypatch
):
    with speaking(True) as speech:
        watched = rows(speech, STEERED)
        answer = Given(watched[0].before, speech.encode("yes it is"), STEERED)
        assert speech.write(watched, 4)
        monkeypatch.setattr(
            "emoguard.summary._receipt",
            lambda steered: (
                None if steered is None else dataclasses.replace(whole(steered), faulted=1)
            ),
        )
        for ask in (lambda: speech.write(watched, 4), lambda: speech.weigh([answer])):
            with pytest.raises(EmoGuardError, match=r"1 of .* tokens were left unsteered"):
                ask()
        assert speech.write(rows(speech, None), 4)
    with speaking(False) as unwatched, pytest.raises(EmoGuardError, match="all of its tokens"):
        unwatched.write(watched, 4)


def test_weighing_a_greedy_answer_finds_every_token_the_likeliest(speaking):
    with speaking(True) as speech:
        before = speech.prompt(ASKED)
        (text,) = speech.write([Row(before)], 8)
        own, steered = speech.weigh(
            [
                Given(before, text.token_ids),
                Given(before, text.token_ids, Plan(add={"happy": 0.3})),
            ],
            whole=True,
        )
    assert [int(each.argmax()) for each in own.whole] == list(text.token_ids)
    assert own.logs == pytest.approx([each.max() for each in own.whole.astype(float)], abs=1e-4)
    assert own.dose == 0 < steered.dose
    assert not np.allclose(own.whole[-1], steered.whole[-1], atol=1e-4)


def test_openings_of_different_lengths_are_weighed_side_by_side_as_alone(speaking):
    with speaking(True) as speech:
        before = speech.prompt(ASKED)
        texts = [speech.encode("yes"), speech.encode("no, that is false")]
        together = speech.weigh([Given(before, each) for each in texts])
        alone = [speech.weigh([Given(before, each)])[0] for each in texts]
    for one, other in zip(together, alone, strict=True):
        assert len(one.logs) == len(other.logs)
        assert np.allclose(one.logs, other.logs, atol=1e-3)


def test_random_directions_are_matched_to_two_percent(speaking):
    with speaking(True) as speech:
        names = [f"random-{n}" for n in range(8)]
        asked = [ASKED, "what is a bridge?"]
        matching = match(speech, asked, PROTOCOL.labels, names, 0.15, bound=PROTOCOL.bound)
    assert all(abs(ratio - 1) < 0.02 for ratio in matching.realised.values())
    assert all(each > 0 for each in matching.divergences.values())


@pytest.mark.parametrize("prompt", [False, True])
def test_rows_that_share_a_prompt_get_what_generate_gives_them_alone(tmp_path, prompt):
    torch = pytest.importorskip("torch")
    speaker = open_speaker(tiny_folder.write(tmp_path))
    probe = make_probe(speaker.door, PROTOCOL.labels)
    guard = Guard(
        probe,
        [measure_calibration(speaker.door, probe)],
        Policy(steering=SteeringPolicy(max_dose_ratio=PROTOCOL.bound)),
    )
    plans = [None, Plan(add={"happy": 0.3}, prompt=prompt), Plan(add={"desperate": -0.3})]
    with open_speech(speaker, guard) as speech:
        before = speech.prompt(ASKED)
        together = speech.write([Row(before, plan) for plan in plans], 12)
        ids = torch.tensor([before])
        for plan, shared in zip(plans, together, strict=True):
            out = speaker.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                emoguard=Request(plan=plan),
            )  # fmt: skip
            alone = out[0, len(before) :].tolist()
            assert list(shared.token_ids) == alone[: len(shared.token_ids)]
    assert len({each.token_ids for each in together}) == len(plans)


PROMPTS = (ASKED, "hi", "name the capital of a country by the sea, and say why it is there")


@pytest.fixture(scope="module")
def padding(tmp_path_factory):
    """Return the speech of a Transformers folder, and its plain model."""
    torch = pytest.importorskip("torch")
    path = tiny_folder.write(tmp_path_factory.mktemp("padding"))
    plain = open_speaker(path).model
    assert plain.dtype == torch.float32
    with opened(path)(True) as speech:
        yield speech, plain


@pytest.mark.parametrize("prompt", [False, True])
def test_rows_after_prompts_of_different_lengths_are_written_as_alone(padding, prompt):
    speech, _ = padding
    plans = [None, Plan(add={"happy": 0.3}, prompt=prompt), Plan(add={"desperate": -0.3})]
    mixed = [
        Row(speech.prompt(text), plan, temperature, 0, 5)
        for plan in plans
        for text in PROMPTS
        for temperature in (0.0, 1.0)
    ]
    assert len({len(row.before) for row in mixed}) == len(PROMPTS)
    for row, together in zip(mixed, speech.write(mixed, 12), strict=True):
        (alone,) = speech.write([row], 12)
        assert together.token_ids == alone.token_ids
        assert together.dose == pytest.approx(alone.dose, abs=1e-5)
        assert together.clipped == alone.clipped
    assert len({each.token_ids for each in speech.write(mixed, 12)}) > len(mixed) // 2


@pytest.mark.parametrize("prompt", [False, True])
def test_rows_after_prompts_of_different_lengths_are_weighed_as_alone(padding, prompt):
    speech, _ = padding
    plans = [None, Plan(add={"happy": 0.3}, prompt=prompt), Plan(add={"desperate": -0.3})]
    mixed = [
        Given(speech.prompt(text), speech.encode(answer), plan)
        for text in PROMPTS
        for answer in ("yes", "no, that is false")
        for plan in plans
    ]
    for row, together in zip(mixed, speech.weigh(mixed, whole=True), strict=True):
        (alone,) = speech.weigh([row], whole=True)
        assert np.allclose(together.logs, alone.logs, atol=1e-5)
        assert np.allclose(together.whole, alone.whole, atol=1e-4)
        longest = len(row.token_ids) == max(len(each.token_ids) for each in mixed)
        if longest:
            assert together.dose == pytest.approx(alone.dose, abs=1e-5)


def test_the_dose_of_a_given_answer_is_the_same_however_long_the_others_are(padding):
    speech, _ = padding
    short = Given(speech.prompt("hi"), speech.encode("yes"), Plan(add={"happy": 0.3}))
    doses = [
        speech.weigh([short, Given(speech.prompt(ASKED), speech.encode(other))])[0].dose
        for other in ("so it is", "no, that is false and has always been")
    ]
    assert doses[0] == pytest.approx(doses[1], abs=1e-6)


def test_unsteered_rows_beside_steered_ones_of_other_lengths_are_those_of_generate(padding):
    import torch

    speech, plain = padding
    befores = [speech.prompt(text) for text in PROMPTS]
    plans = [None, Plan(add={"happy": 0.3})]
    written = speech.write([Row(before, plan) for plan in plans for before in befores], 12)
    for before, answer in zip(befores, written, strict=False):
        ids = torch.tensor([before])
        out = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        alone = out[0, len(before) :].tolist()
        assert list(answer.token_ids) == alone[: len(answer.token_ids)]


def test_weighed_rows_of_other_lengths_have_the_log_probabilities_of_a_plain_model(padding):
    import torch

    speech, plain = padding
    answer = speech.encode("no, that is false")
    befores = [speech.prompt(text) for text in PROMPTS]
    for before, weighed in zip(
        befores, speech.weigh([Given(before, answer) for before in befores]), strict=True
    ):
        with torch.no_grad():
            logits = plain(torch.tensor([[*before, *answer]])).logits[0, len(before) - 1 : -1]
        logs = logits.log_softmax(-1)[range(len(answer)), list(answer)]
        assert np.allclose(weighed.logs, logs.numpy(), atol=1e-5)


def test_no_setting_of_the_checkpoint_alters_what_a_study_writes_and_weighs(padding, tmp_path):
    speech, _ = padding
    path = tiny_folder.write(tmp_path)
    altered = open_speaker(path)
    altered.model.generation_config.repetition_penalty = 30.0
    altered.model.generation_config.suppress_tokens = list(range(3, 200))
    before = speech.prompt(ASKED)
    asked = [Row(before, None, temperature, 3) for temperature in TEMPERATURES]
    given = [Given(before, speech.encode("yes"))]
    with open_speech(altered, None) as other:
        assert other.write(asked, 12) == speech.write(asked, 12)
        (own,), (actual,) = speech.weigh(given), other.weigh(given)
    assert own.logs == pytest.approx(actual.logs, abs=1e-6)
    assert altered.model.generation_config.repetition_penalty == 30.0
    guard = Guard(make_probe(altered.door, PROTOCOL.labels))
    with attach(altered.model, guard, **altered.options):
        (answer,) = altered.batch([before], [Request()], tokens=12)
    assert altered.decode(answer) == speech.write(asked, 12)[0].text


def test_an_empty_answer_weighs_nothing(speaking):
    with speaking(True) as speech:
        (weighed,) = speech.weigh([Given(speech.prompt(ASKED), (), Plan(add={"happy": 0.2}))])
    assert len(weighed.logs) == 0
    assert weighed.dose == 0


def test_more_rows_than_a_batch_takes_are_written_in_several(padding, monkeypatch):
    speech, _ = padding
    mixed = [Row(speech.prompt(text), None, 1.0, n) for text in PROMPTS for n in range(3)]
    whole = speech.write(mixed, 6)
    monkeypatch.setattr("emoguard_transformers.speech.ROWS", 4)
    assert speech.write(mixed, 6) == whole


@pytest.mark.real
def test_on_smollm2_a_zero_vector_changes_no_token_in_llama_cpp():
    real = opened(models.smollm2_gguf())
    with real(True) as speech:
        text = speech.write([*rows(speech, None), *rows(speech, Plan(add={"happy": 0.0}))], 16)
    with real(False) as speech:
        plain = speech.write(rows(speech, None), 16)
    assert text[:3] == text[3:] == plain


@pytest.mark.real
def test_on_smollm2_a_zero_vector_changes_no_token_in_transformers():
    real = opened(models.hf_copy(models.smollm2_gguf()))
    with real(True) as speech:
        text = speech.write([*rows(speech, None), *rows(speech, Plan(add={"happy": 0.0}))], 8)
    with real(False) as speech:
        plain = speech.write([*rows(speech, None), *rows(speech, None)], 8)
    assert text[:3] == text[3:] == plain[:3]
