"""Paths on the command line: each wrong one is told what it is, and what to give in its place."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from emoguard import EmoGuardError
from emoguard.cli.paths import check_is_probe, check_out
from emoguard.probe import artifact
from emoguard.runtime.openers import recognise
from emoguard.testing import FakeResiduals, make_probe


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one of everything that people give as a model."""
    monkeypatch.chdir(tmp_path)
    for folder in ("model", "adapter", "empty", "ggufs", "cache/snapshots/0a1b", "outer/inner"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("model", "cache/snapshots/0a1b", "outer/inner"):
        (tmp_path / folder / "config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "ggufs" / "m.Q4_1.gguf").write_bytes(b"GGUF")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "broken.gguf").write_bytes(b"no model")
    save_file({"w": np.zeros(3)}, tmp_path / "model" / "model.safetensors")
    save_file({"w": np.zeros(3)}, tmp_path / "weights.safetensors")
    artifact.save(tmp_path / "probe.safetensors", make_probe(FakeResiduals()))
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(("path", "kind"), [("m.gguf", "llamacpp"), ("model", "transformers")])
def test_models_are_recognised(place, path, kind):
    assert recognise(path) == kind
    assert recognise(place / path) == kind


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("owner/name", "hf download owner/name --local-dir FOLDER"),
        ("nothing.gguf", "give a GGUF file or a Transformers folder"),
        ("model/nothing", "give a GGUF file or a Transformers folder"),
        ("/nowhere/else", "give a GGUF file or a Transformers folder"),
        ("empty", "it holds no config.json"),
        ("ggufs", "give ggufs/m.Q4_1.gguf"),
        ("cache", "give cache/snapshots/0a1b"),
        ("outer", "give outer/inner"),
        ("adapter", "merge it into its base model"),
        ("broken.gguf", "give a GGUF file or a Transformers folder"),
        ("model/model.safetensors", "give its folder model"),
        ("model/config.json", "give its folder model"),
        ("weights.safetensors", "give a GGUF file or a Transformers folder"),
        ("probe.safetensors", "it is a probe"),
        ("pipe", "neither a file nor a folder"),
    ],
)
def test_a_path_without_a_model_gets_advice(place, path, advice):
    with pytest.raises(EmoGuardError) as error:
        recognise(path)
    assert path in str(error.value)
    assert advice in str(error.value)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("m.gguf", r"a model \(a GGUF file\)"),
        ("model", r"a model \(a Transformers folder\)"),
        ("empty", "a folder"),
    ],
)
def test_a_file_that_is_not_a_probe_is_named(place, path, what):
    with pytest.raises(EmoGuardError, match=f"{path} is {what}, not a probe: give a probe file"):
        check_is_probe(path)


@pytest.mark.parametrize("path", ["probe.safetensors", "weights.safetensors", "nothing"])
def test_a_possible_probe_file_is_left_to_its_reader(place, path):
    check_is_probe(path)


def test_weights_given_as_a_probe_are_told_so(place):
    with pytest.raises(EmoGuardError, match="not the weights of a model"):
        artifact.load("weights.safetensors")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("out.bin", r"--out must end in .gguf, got out.bin"),
        ("no/out.gguf", "there is no folder no for --out out.gguf"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(place, path, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        check_out("--out", path, ".gguf")
    assert not (place / "no").exists()


def test_a_folder_in_the_place_of_a_file_is_refused(place):
    with pytest.raises(EmoGuardError, match="--out wants a file, got the folder model"):
        check_out("--out", "model")


@pytest.mark.parametrize("there", [True, False])
def test_a_place_without_the_right_to_write_is_refused(place, monkeypatch, there):
    path = "m.gguf" if there else "new.gguf"
    closed = place / path if there else place
    monkeypatch.setattr(os, "access", lambda each, mode: each != closed)  # root may write anywhere
    with pytest.raises(
        EmoGuardError, match=f"--out: {path} cannot be written: no permission to wr"
    ):
        check_out("--out", path)
