"""The public face on SmolLM2 in both runtimes: opened by path, watched, scored, printed."""

import numpy as np
import pytest

import emoguard
from emoguard import Request
from emoguard.runtime.attention import sink_length
from emoguard.runtime.openers import open_speaker, recognise
from emoguard.runtime.session import REQUEST
from emoguard.runtime.speaker import BatchSpeaker, GroupSpeaker, Prompt, answer
from tests.support.models import hf_copy, qwen_gguf, smollm2_gguf

pytestmark = pytest.mark.real

PROBE = "smollm2-135m-instruct"
HAPPY = "We won the match, everybody hugged, and the children danced on the tables until midnight!"
SAD = "The hospital called at four. She never came home again, and the house has been quiet since."
PROMPT = Prompt("Say hello in one sentence.", max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def speakers():
    pytest.importorskip("llama_cpp")
    pytest.importorskip("transformers")
    path = smollm2_gguf()
    return {"llamacpp": open_speaker(path, threads=1), "transformers": open_speaker(hf_copy(path))}


@pytest.fixture(params=["llamacpp", "transformers"])
def speaker(request, speakers):
    return speakers[request.param]


def test_a_model_is_opened_by_the_runtime_whose_format_it_has():
    assert recognise(smollm2_gguf()) == "llamacpp"
    assert recognise(hf_copy(smollm2_gguf())) == "transformers"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("system", ["", "You are brief."])
def test_both_runtimes_write_the_same_prompt(speakers, system, raw):
    prompt = Prompt("What is a tide?", system, raw=raw)
    first, second = (each.prompt_ids(prompt) for each in speakers.values())
    assert first == second


@pytest.mark.parametrize("system", ["", "You are brief."])
def test_a_model_that_writes_a_system_prompt_of_its_own_gets_it_in_both_runtimes(system):
    """Qwen's template adds one where none is asked for."""
    path = qwen_gguf()
    prompt = Prompt("What is a tide?", system)
    first, second = (open_speaker(each).prompt_ids(prompt) for each in (path, hf_copy(path)))
    assert first == second


def test_a_response_depends_on_its_seed_and_not_on_earlier_ones(speaker):
    def ids(seed):
        return speaker.respond(Prompt("Name a bird.", max_tokens=10, seed=seed)).token_ids

    first = ids(1)
    assert ids(2) != first
    assert ids(1) == first


def test_an_answer_ticks_at_its_tokens_and_is_the_decoded_response(speaker):
    ticks = []
    text = answer(speaker, PROMPT, lambda: ticks.append(None))
    generated = speaker.respond(PROMPT)
    assert text.strip() == speaker.decode(generated.token_ids).strip()
    assert len(ticks) >= len(generated.token_ids)


def test_a_row_of_a_batch_gets_the_same_as_alone(speakers):
    speaker = speakers["transformers"]
    assert isinstance(speaker, BatchSpeaker)
    assert not isinstance(speakers["llamacpp"], BatchSpeaker)
    prompts = [speaker.prompt_ids(Prompt(text)) for text in ("Hi.", "What is the capital of Peru?")]
    with emoguard.watch(speaker.model, probe=PROBE, **speaker.options):
        both = speaker.batch(prompts, [Request(), Request()], tokens=6, exactly=True)
        alone = [speaker.batch([each], [Request()], tokens=6, exactly=True)[0] for each in prompts]
    assert both == alone


def test_responses_of_a_group_are_those_of_each_alone(speaker):
    assert isinstance(speaker, GroupSpeaker)
    texts = ("Hi.", "What is the capital of Peru?", "Say yes.")
    prompts = [Prompt(text, max_tokens=8, temperature=0) for text in texts]
    assert speaker.respond_together(prompts) == [speaker.respond(prompt) for prompt in prompts]
    drawn = [Prompt(text, max_tokens=8, seed=3) for text in texts]
    assert speaker.respond_together(drawn) == speaker.respond_together(drawn)


def test_surprise_is_lower_for_the_models_own_text(speakers):
    speaker = speakers["transformers"]
    before = speaker.prompt_ids(PROMPT)
    own = speaker.respond(PROMPT).token_ids
    other = speaker.door.tokenize("Quux lozenge thirteen by the umbrella", special=False)
    assert 0 < speaker.surprise(before, own) < speaker.surprise(before, other)
    assert speaker.surprise(before, []) == 0


def test_one_block_watches_and_its_report_prints_and_carries_the_text(speaker):
    policy = {"labels": ["happy", "sad", "valence"]}
    with emoguard.watch(speaker.model, policy, PROBE, **speaker.options) as watch:
        assert watch.model is speaker.model
        seen = []
        token = REQUEST.set(Request("mine", scores="text"))
        try:
            text = answer(speaker, PROMPT, lambda: seen.append(watch.live()))
        finally:
            REQUEST.reset(token)
    report = watch.reports[-1]
    assert report.id == "mine"
    assert report.status == "scored"
    assert "".join(each.text for each in report.tokens).strip() == text.strip()
    assert str(report).splitlines()[0].startswith("label")
    assert "background" in report.html("happy") or "<span" in report.html("happy")
    live = [reading for reading in seen if reading is not None]
    assert live
    assert {reading.labels for reading in live} == {("happy", "sad", "valence")}


def test_a_score_is_the_mean_of_the_offline_rows_and_tells_happy_from_sad(speaker):
    scores = emoguard.score(speaker.model, [HAPPY, SAD], PROBE, **speaker.options)
    assert scores.calibrated
    assert scores["valence"][0] > scores["valence"][1]
    guard = emoguard.Guard.load(PROBE)
    readout = guard.probe.fold(guard.calibration(speaker.door.identity))
    for row, text in zip(scores.z, (HAPPY, SAD), strict=True):
        ids = speaker.door.tokenize(text)
        z = readout.read(speaker.door.residuals(ids, readout.layers))[sink_length(ids) :]
        np.testing.assert_allclose(row, z.mean(axis=0), rtol=0.02, atol=0.02)


def test_without_a_probe_the_shipped_one_that_fits_is_taken(speaker):
    some = emoguard.score(speaker.model, [HAPPY], labels=["happy"], **speaker.options)
    named = emoguard.score(speaker.model, [HAPPY], PROBE, labels=["happy"], **speaker.options)
    np.testing.assert_array_equal(some.z, named.z)


def test_scoring_does_not_disturb_a_watch(speaker):
    with emoguard.watch(speaker.model, probe=PROBE, **speaker.options) as watch:
        before = answer(speaker, PROMPT)
        emoguard.score(speaker.model, [SAD], PROBE, **speaker.options)
        assert answer(speaker, PROMPT) == before
        assert len(watch.reports) == 2
