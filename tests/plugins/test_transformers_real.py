"""The Transformers plug-in on the real small models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import emoguard_transformers
import numpy as np
import pytest
import torch

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe.probe import Probe
from emoguard.probe.witness import Witness
from emoguard.records import Request
from emoguard.testing import make_calibration, make_probe
from tests.support.models import gemma_gguf, load_hf, qwen_gguf, smollm2_gguf

pytestmark = pytest.mark.real

FILES = {"smollm2": smollm2_gguf, "gemma": gemma_gguf, "qwen": qwen_gguf}
LAYERS = {"smollm2": (5, 12, 19, 26), "gemma": (3, 7, 11, 15), "qwen": (4, 10, 15, 20)}
PROMPT = "The letter lay on the table, and nobody wanted to open it, because"


@pytest.fixture(scope="module", params=LAYERS)
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any, Probe]:
    model, tokenizer = load_hf(FILES[request.param]())
    door = emoguard_transformers.open_residuals(model, tokenizer)
    probe = make_probe(door, [f"label {n}" for n in range(20)], LAYERS[request.param])
    return model, tokenizer, probe


def generate(model: Any, tokenizer: Any, **more: Any) -> Any:
    inputs = tokenizer(PROMPT, return_tensors="pt")
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    return model.generate(**inputs, **(options | more))


def test_ids_and_logits_are_bit_identical_and_every_token_is_read(loaded: Any) -> None:
    model, tokenizer, probe = loaded
    attributes = set(vars(model))
    clean = generate(model, tokenizer)
    with emoguard.attach(model, Guard(probe), tokenizer=tokenizer) as watch:
        watched = generate(model, tokenizer, emoguard=Request(scores="tokens"))
    after = generate(model, tokenizer)
    for other in (watched, after):
        assert torch.equal(other.sequences, clean.sequences)
        assert all(map(torch.equal, other.logits, clean.logits))
    (report,) = watch.reports
    ids = clean.sequences[0, -12:].tolist()
    assert [token.id for token in report.tokens] == ids
    assert report.tokens_scored == report.completion_tokens == 12
    assert set(vars(model)) == attributes
    assert not any(module._forward_hooks for module in model.modules())


def test_rows_are_the_probes_projections_of_the_residuals(loaded: Any) -> None:
    model, tokenizer, probe = loaded
    door = emoguard_transformers.open_residuals(model, tokenizer)
    guard = Guard(probe, [make_calibration(probe, door.identity)])
    with emoguard.attach(model, guard) as watch:
        out = generate(model, tokenizer, emoguard=Request(scores="tokens"))
    (report,) = watch.reports
    assert report.status == "scored"
    live = np.array([token.z for token in report.tokens])
    residuals = door.residuals(out.sequences[0, :-1].tolist(), probe.layers)
    offline = guard.site(door.identity).readout.read(residuals)[-12:]
    assert np.abs(live - offline).max() <= 1e-3 * np.abs(offline).max()


@pytest.mark.parametrize("offset", [-1, 1])
def test_a_probe_one_layer_off_is_refused_and_leaves_nothing(loaded: Any, offset: int) -> None:
    model, tokenizer, probe = loaded
    attributes = set(vars(model))
    door = emoguard_transformers.open_residuals(model, tokenizer)
    witness = Witness.record(door, [layer + offset for layer in probe.layers])
    with pytest.raises(EmoGuardError, match="reads like layer"):
        emoguard.attach(model, Guard(replace(probe, witness=witness)))
    assert set(vars(model)) == attributes
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:.*:UserWarning:transformers")
def test_a_pipeline_is_read(loaded: Any) -> None:
    from transformers import pipeline

    model, tokenizer, probe = loaded
    run = pipeline("text-generation", model=model, tokenizer=tokenizer)
    with emoguard.attach(model, Guard(probe), tokenizer=tokenizer) as watch:
        run(PROMPT, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert watch.reports[-1].tokens_scored == 4


def test_the_witness_holds_in_bfloat16_and_the_identity_differs(loaded: Any) -> None:
    model, tokenizer, probe = loaded
    identity = emoguard_transformers.open_residuals(model).identity
    guard = Guard(probe, [make_calibration(probe, identity)])
    try:
        model.bfloat16()
        with emoguard.attach(model, guard) as watch:
            generate(model, tokenizer, max_new_tokens=2, min_new_tokens=2)
        assert watch.reports[-1].status == "uncalibrated"
    finally:
        # The weights stay rounded: this test stands last in the file.
        model.float()
