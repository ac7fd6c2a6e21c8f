"""`emoguard doctor`: what can be read here, and what is to be done before scores mean something."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

from emoguard.advice import fit_command
from emoguard.cli import main
from emoguard.fit.calibrating import own_prompts
from emoguard.fit.corpora import default_labels
from emoguard.fit.responses import Sampling, calibrate, responses
from emoguard.probe import artifact
from emoguard.runtime.openers import open_speaker
from emoguard.testing import make_calibration, make_probe
from tests.support import models, tiny_folder, tiny_gguf

pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Run the verb; return its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str]:
        code = main(["doctor", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, " ".join(captured.out.split())

    return run


@pytest.fixture(scope="module", params=["gguf", "folder"])
def model(request, tmp_path_factory):
    """A tiny random model that no shipped probe fits."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "gguf":
        return tiny_gguf.write(folder / "tiny.gguf", "qwen2")
    return tiny_folder.write(folder / "tiny")


def save_probe(path, model, *, is_calibrated, **changes):
    door = open_speaker(model).door
    probe = dataclasses.replace(make_probe(door, ("happy", "sad"), (1, 2)), **changes)
    artifact.save(path, probe, [make_calibration(probe, door.identity)] if is_calibrated else [])
    return path


def test_the_runtimes_are_found_and_all_is_well(doctor):
    code, out = doctor()
    assert code == 0
    assert "llama_cpp" in out
    assert "transformers" in out
    assert "broken" not in out


def test_a_model_no_shipped_probe_fits_is_told_to_fit_one(doctor, model):
    code, out = doctor("--model", model)
    assert code == 0
    assert "no shipped one fits" in out
    assert fit_command(str(model)) in out
    assert "emoguard calibrate" not in out


def test_a_model_that_the_probe_is_not_calibrated_for_is_told_to_calibrate(doctor, model, tmp_path):
    probe = save_probe(tmp_path / "p.safetensors", model, is_calibrated=False)
    code, out = doctor("--model", model, "--probe", probe)
    assert code == 0
    assert "calibration to do uncalibrated: no calibration for exactly this file" in out
    assert f"emoguard calibrate --model {model} --probe {probe} --out " in out
    assert "emoguard fit" not in out


def test_the_command_that_is_told_makes_all_well(doctor, model, tmp_path):
    probe = save_probe(tmp_path / "p.safetensors", model, is_calibrated=False)
    _, out = doctor("--model", model, "--probe", probe)
    command = out.partition("calibration: emoguard ")[2].split()
    assert main([*command, "--responses", "8", "--tokens", "16"]) == 0
    code, out = doctor("--model", model, "--probe", command[command.index("--out") + 1])
    assert code == 0
    # All answers of a group are kept: 16 of a GGUF file, 8 of a folder.
    assert f"made on {8 if Path(model).is_dir() else 16} responses" in out
    assert "calibration to do few answers (" in out
    assert "uncalibrated" not in out


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A tiny model, a probe of it, and a calibration of it that says it is another file's."""
    model = tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf", "llama")
    speaker = open_speaker(model, threads=1)
    probe = make_probe(speaker.door, [label.name for label in default_labels()], (1, 2))
    sampling = Sampling(16)
    prompts = own_prompts()[:24]
    calibration = calibrate(
        speaker.door, probe, list(responses(speaker, prompts, sampling)),
        context=sampling.context("", own_prompts()),
    )  # fmt: skip
    other = dataclasses.replace(speaker.door.identity, quantisation="Q8_0")
    return model, probe, dataclasses.replace(calibration, identity=other)


def test_another_file_of_the_weights_is_uncalibrated_and_not_stale(doctor, answered, tmp_path):
    model, probe, calibration = answered
    artifact.save(tmp_path / "p.safetensors", probe, [calibration])
    code, out = doctor("--model", model, "--probe", tmp_path / "p.safetensors")
    assert code == 0
    assert "uncalibrated" in out
    assert "its scores did not move" in out
    assert "--realign" not in out


def test_calibrations_under_a_system_prompt_say_nothing_about_the_model(doctor, answered, tmp_path):
    model, probe, calibration = answered
    moved = dataclasses.replace(
        calibration,
        location=calibration.location - 3 * calibration.scale,
        context={**calibration.context, "system": "0" * 64},
    )
    artifact.save(tmp_path / "p.safetensors", probe, [moved])
    _, out = doctor("--model", model, "--probe", tmp_path / "p.safetensors")
    assert "stale" not in out
    assert "whether the model was changed cannot be said" in out


def test_a_model_whose_neutral_scores_moved_is_stale_and_told_to_realign(
    doctor, answered, tmp_path, capsys
):
    model, probe, calibration = answered
    before = dataclasses.replace(calibration, location=calibration.location - 3 * calibration.scale)
    artifact.save(tmp_path / "p.safetensors", probe, [before])
    code, out = doctor("--model", model, "--probe", tmp_path / "p.safetensors")
    assert code == 0
    assert "stale: the model was changed, and neutral scores moved for" in out
    command = out.partition("calibration: emoguard ")[2].split()
    assert command[-1] == "--realign"
    # The directions are random, so they tell nothing apart: nothing is moved to this model.
    assert main(command) == 1
    assert "do not hold on this model any more" in capsys.readouterr().err
    assert not list(tmp_path.glob("*F32*"))


def test_a_probe_of_another_model_is_broken_here(doctor, model):
    code, out = doctor("--model", model, "--probe", "gemma-3-270m")
    assert code == 1
    assert "probe broken" in out
    assert "was made for a gemma3_text model" in out


def test_cautions_of_the_probe_are_told(doctor, model, tmp_path):
    card = {"cautions": ["few texts"]}
    probe = save_probe(tmp_path / "p.safetensors", model, is_calibrated=True, card=card)
    assert "probe to do few texts" in doctor("--model", model, "--probe", probe)[1]


def test_a_gguf_file_is_read_in_a_child_which_names_its_paths(doctor, tmp_path):
    model = tiny_gguf.write(tmp_path / "tiny.gguf", "qwen2")
    code, out = doctor("--model", model)
    assert code == 0
    assert "qwen2, 5 layers of 64, F32" in out
    assert "callback read ok works" in out


def test_a_folder_is_read_through_its_hooks(doctor, tmp_path):
    code, out = doctor("--model", tiny_folder.write(tmp_path / "tiny"))
    assert code == 0
    assert "tiny ok llama, 6 layers of 48, float32" in out
    assert "read ok works at every layer" in out


@pytest.mark.parametrize("path", ["x.gguf", "nowhere", "folder"])
def test_what_is_no_model_is_broken(doctor, tmp_path, path):
    (tmp_path / "x.gguf").write_bytes(b"no model")
    (tmp_path / "folder").mkdir()
    code, out = doctor("--model", tmp_path / path)
    assert code == 1
    assert f"{path} broken" in out


def test_a_file_cut_off_after_its_first_bytes_is_broken(doctor, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF and no more")
    code, out = doctor("--model", tmp_path / "x.gguf")
    assert code == 1
    assert "x.gguf broken" in out


def test_a_folder_without_tokenizer_is_told_what_it_lacks(doctor, tmp_path):
    folder = tiny_folder.write(tmp_path / "tiny")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    code, out = doctor("--model", folder)
    assert code == 1
    assert f"the tokenizer of {folder} cannot be opened" in out


def test_without_the_library_the_model_is_broken_and_the_table_says_what_to_install(
    doctor, monkeypatch, tmp_path
):
    folder = tiny_folder.write(tmp_path / "tiny")
    for name in [name for name in sys.modules if name.startswith("emoguard_transformers.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out = doctor("--model", folder)
    assert code == 1
    assert "tiny broken needs torch" in out
    assert "tiny: pip install 'torch" in out


def test_without_any_runtime_it_says_what_to_install(doctor, monkeypatch):
    module = importlib.import_module("emoguard.cli.doctor")
    monkeypatch.setattr(module, "packages_distributions", dict)
    code, out = doctor()
    assert code == 1
    assert "pip install 'llama-cpp-python" in out


def test_a_probe_alone_is_misuse():
    assert main(["doctor", "--probe", "gemma-3-270m"]) == 2


@pytest.mark.real
def test_the_shipped_probe_is_found_and_calibrated_for_the_file_it_was_made_on(doctor):
    code, out = doctor("--model", models.smollm2_gguf())
    assert code == 0
    assert "fits" in out
    assert "to do" not in out


@pytest.mark.real
def test_a_quantisation_without_calibration_is_told_to_calibrate_the_shipped_probe(doctor):
    path = models.quantised(models.smollm2_gguf(), "Q8_0")
    code, out = doctor("--model", path)
    assert code == 0
    assert (
        f"emoguard calibrate --model {path} --probe smollm2-135m-instruct --out "
        "smollm2-135m-instruct-Q8_0.safetensors"
    ) in out
