"""The offline door gives the residuals that Transformers gives; `emoguard` runs on engines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import emoguard_vllm
import numpy as np
import pytest
from emoguard_transformers.speaker import TransformersSpeaker
from emoguard_vllm.speaker import VllmSpeaker

from emoguard import attach
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora
from emoguard.probe.witness import WITNESS_TEXT
from emoguard.runtime.speaker import Prompt
from tests.plugins.vllm.asking import prompts
from tests.plugins.vllm.engines import PROBE

pytestmark = pytest.mark.engines("eager")


def test_residuals_are_those_of_transformers_at_every_layer(llm: Any, truth: Any) -> None:
    door = emoguard_vllm.open_residuals(llm)
    assert door.identity.matches(truth.door.identity)
    assert door.identity.content == truth.door.identity.content
    layers = range(door.identity.layers - 1)
    for ids in (door.tokenize(WITNESS_TEXT), prompts(truth.tokenizer)[3]):  # one of several chunks
        ours, theirs = door.residuals(ids, layers), truth.door.residuals(ids, layers)
        apart = np.linalg.norm(ours - theirs, axis=2) / np.linalg.norm(theirs, axis=2)
        print(f"door: {len(ids)} tokens, relative difference {apart.max():.2g}")
        assert apart.max() < 1e-4


def test_a_policy_without_a_probe_goes_with_the_shipped_one_that_fits(
    llm: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nlabels: [sad, happy]\n")
    settings = llm.llm_engine.vllm_config.additional_config["emoguard"]
    monkeypatch.setitem(settings, "policy", str(path))
    with attach(llm) as watch:
        assert watch.guard.policy.labels == ("sad", "happy")
        assert watch.guard.probe.name.startswith(PROBE)


def test_what_it_cannot_read_is_refused(llm: Any) -> None:
    door = emoguard_vllm.open_residuals(llm)
    with pytest.raises(EmoGuardError, match="at least one token"):
        door.residuals([], [3])
    with pytest.raises(EmoGuardError, match="this engine reads layers"):
        door.residuals([1, 2], [29])


def test_an_engine_answers_for_a_calibration(llm: Any, truth: Any) -> None:
    ours, theirs = VllmSpeaker(llm), TransformersSpeaker(truth.model, truth.tokenizer)
    assert ours.has_template
    for prompt in (
        Prompt("Name a fruit.", max_tokens=12, temperature=0.0),
        Prompt("Once upon a time", max_tokens=6, temperature=0.0, raw=True),
    ):
        assert ours.respond(prompt) == theirs.respond(prompt)
        assert ours.answer(prompt, lambda: None).strip()


def emoguard(*arguments: str) -> None:
    """Run a command in a process of its own, which ends with its engine."""
    subprocess.run([Path(sys.executable).with_name("emoguard"), *arguments], check=True)


@pytest.mark.long
def test_emoguard_calibrate_runs_on_an_engine(tmp_path: Path) -> None:
    from tests.plugins.vllm.engines import PROBE
    from tests.support.models import hf_copy, smollm2_gguf

    out = tmp_path / "made.safetensors"
    arguments = ["calibrate", "--engine", "vllm", "--model", str(hf_copy(smollm2_gguf()))]
    arguments += ["--probe", PROBE, "--out", str(out), "--responses", "8", "--tokens", "64"]
    emoguard(*arguments)
    from emoguard.probe import artifact

    _, calibrations = artifact.load(out)
    made = [each for each in calibrations if each.identity.quantisation == "float32"]
    (calibration,) = made
    assert calibration.curve.responses == 8  # as long as the alarm window; shorter ones count apart
    assert calibration.responses >= 8


@pytest.mark.long
def test_emoguard_fits_on_an_engine_as_on_transformers_and_judges(tmp_path: Path) -> None:
    from emoguard.probe import artifact
    from tests.support.models import hf_copy, smollm2_gguf

    neutral = tmp_path / "neutral.jsonl"
    neutral.write_text("\n".join(corpora.own_neutral().read_text().splitlines()[:20]))
    few = ["--model", str(hf_copy(smollm2_gguf())), "--neutral", str(neutral), "--most", "10"]
    answers = ["--layers", "14,20", "--responses", "8", "--tokens", "16"]
    places = [tmp_path / f"{runtime}.safetensors" for runtime in ("vllm", "transformers")]
    for place in places:
        arguments = ["fit", *few, *answers, "--runtime", place.stem, "--out", str(place)]
        emoguard(*arguments)
    ours, theirs = (artifact.load(place)[0] for place in places)
    apart = 1 - (ours.steer.astype(float) * theirs.steer).sum(axis=2)
    print(f"fit: 1 - cosine of directions {apart.max():.2g}")
    assert apart.max() < 1e-6
    judged = ["--runtime", "vllm", "--probe", str(places[0]), "--card", str(tmp_path)]
    emoguard("validate", *few, *judged, "--no-on-policy")
    card = json.loads((tmp_path / "validation.json").read_text())
    assert card["verdicts"].keys() >= set(card["labels"])
