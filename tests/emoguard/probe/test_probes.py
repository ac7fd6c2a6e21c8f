"""The shipped probes, on the models they are for, in both runtimes."""

import json
from importlib.resources import as_file
from pathlib import Path

import numpy as np
import pytest

import emoguard
from emoguard import Guard, Request
from emoguard.fit import corpora
from emoguard.probe.shipped import shipped_files
from emoguard.runtime.attach import find, shipped
from tests.support.models import (
    gemma_gguf,
    load_hf,
    load_llama,
    quantised,
    qwen_gguf,
    smollm2_gguf,
)

CARDS = Path(__file__).parents[3] / "docs" / "cards"
MODELS = {
    "smollm2-135m-instruct": smollm2_gguf,
    "gemma-3-270m": gemma_gguf,
    "qwen2.5-coder-0.5b-instruct": qwen_gguf,
}
STORIES = {
    "happy": "They read the letter three times, then jumped around the kitchen laughing and called "
    "everyone they knew, and the whole street came over with cake.",
    "sad": "She folded the small clothes into the box one by one, closed the lid, and sat on the "
    "floor of the empty room until it was dark.",
    "afraid": "Something heavy moved behind the door. He held his breath, his hands shaking, and "
    "the handle slowly began to turn.",
}


def test_there_is_one_probe_per_model_small_and_with_its_origin():
    actual = shipped_files()
    assert set(actual) == set(MODELS)
    for file in actual.values():
        assert len(file.read_bytes()) <= 2 * 2**20
        with as_file(file) as path:
            guard = Guard.load(path)
        names = [label.name for label in corpora.default_labels()]
        assert guard.probe.labels == (*names, "valence")
        assert guard.probe.axes == ("valence",)
        assert len(guard.probe.recipe["sources"]) == 3
        assert set(guard.probe.card["held_out_auroc"]) == set(names)
        assert len(guard.calibrations) == 3  # the quantised file, float32 and bfloat16


@pytest.mark.parametrize("name", MODELS)
def test_the_card_in_the_docs_is_of_the_shipped_file(name):
    with as_file(shipped_files()[name]) as path:
        probe = Guard.load(path).probe
    card = json.loads((CARDS / name / "validation.json").read_text(encoding="utf-8"))
    assert card["name"] == probe.name
    assert card["verdicts"] == probe.card["verdicts"]
    assert (CARDS / name / "card.md").read_text(encoding="utf-8").startswith(f"# {probe.name}\n")


@pytest.mark.real
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("runtime", ["llamacpp", "transformers"])
def test_attach_without_a_guard_finds_the_probe_and_stories_read_as_they_should(name, runtime):
    options = {}
    if runtime == "llamacpp":
        model = load_llama(MODELS[name]())
    else:
        model, options["tokenizer"] = load_hf(MODELS[name]())
    door = find(model)[0].open_residuals(model, **options)
    guard = shipped(door)
    assert guard.probe.name.startswith(name)
    readout, layers = guard.site(door.identity).readout, guard.probe.layers
    z = {}
    for label, text in STORIES.items():
        z[label] = readout.read(door.residuals(door.tokenize(text), layers))[8:].mean(axis=0)
    column = readout.labels.index
    for label in STORIES:
        others = [z[other][column(label)] for other in STORIES if other != label]
        assert z[label][column(label)] > max(others)
    assert z["happy"][column("valence")] > max(z[k][column("valence")] for k in ("sad", "afraid"))


@pytest.mark.real
def test_the_live_reading_is_scored_in_both_runtimes_and_nearly_the_same():
    results = []
    llm = load_llama(smollm2_gguf())
    hf, tokenizer = load_hf(smollm2_gguf())
    prompt = "The capital of France is"
    with emoguard.attach(llm) as watch:
        llm.create_completion(
            prompt, max_tokens=6, temperature=0.0, emoguard=Request(scores="tokens")
        )
        results.append(watch.reports[-1])
    with emoguard.attach(hf, tokenizer=tokenizer) as watch:
        inputs = tokenizer(prompt, return_tensors="pt")
        hf.generate(**inputs, max_new_tokens=6, do_sample=False, emoguard=Request(scores="tokens"))
        results.append(watch.reports[-1])
    assert [report.status for report in results] == ["scored", "scored"]
    first = [np.array(report.tokens[0].z) for report in results]
    assert np.abs(first[0] - first[1]).max() < 0.5
    assert np.median(np.abs(first[0] - first[1])) < 0.1


@pytest.mark.real
def test_a_requantised_file_is_uncalibrated_but_still_the_right_hook():
    llm = load_llama(quantised(smollm2_gguf(), "Q2_K"))
    with emoguard.attach(llm) as watch:
        llm.create_completion("The capital of France is", max_tokens=4)
        assert watch.reports[-1].status == "uncalibrated"
