"""The command itself: exit codes, one-sentence errors, and what show, export and doctor say."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import emoguard
from emoguard.cli import main
from emoguard.cli.verbs import NAMES
from emoguard.extras import install_command
from emoguard.probe import artifact
from emoguard.probe.calibration import Calibration
from emoguard.probe.probe import Probe
from emoguard.steering.plan import Plan
from emoguard.steering.prepare import prepare
from emoguard.testing import FakeResiduals, make_calibration, make_probe

LAYERS = (1, 3)


def made(**changes: object) -> tuple[Probe, Calibration]:
    door = FakeResiduals()
    probe = make_probe(door, ("happy", "sad", "valence"), LAYERS)
    probe = dataclasses.replace(probe, **({"axes": ("valence",)} | changes))
    norms = np.array([3.0, 50.0], np.float32)
    return probe, dataclasses.replace(make_calibration(probe, door.identity), norms=norms)


@pytest.fixture
def probe_file(tmp_path: Path) -> Path:
    probe, calibration = made(recipe={"method": "means"}, card={"verdict": "none"})
    artifact.save(tmp_path / "p.safetensors", probe, [calibration])
    return tmp_path / "p.safetensors"


def said(capsys) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.parametrize("verb", NAMES)
def test_every_verb_explains_itself(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert "Usage: emoguard" in said(capsys)[0]


def test_help_lists_the_verbs_and_version_is_ours(capsys):
    assert main(["--help"]) == 0
    listed = said(capsys)[0]
    assert all(f"  {verb} " in listed for verb in NAMES)
    assert main(["--version"]) == 0
    assert emoguard.__version__ in said(capsys)[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["run"],
        ["run", "--model", "m.gguf", " "],
        ["export", "p"],
        ["show", "--wrong"],
        ["corpus", "write", "--model", "m", "--out", "o", "--each", "0"],
        ["fit", "--model", "m", "--out", "o.safetensors", "--most", "-1"],
        ["calibrate", "--model", "m", "--probe", "p", "--out", "o", "--responses", "3"],
        ["calibrate", "--model", "m", "--probe", "p", "--out", "o", "--temperature", "-1"],
        ["validate", "--model", "m", "--card", "c", "--skip", "-1"],
        ["compare", "a", "b", "--most", "0"],
    ],
)
def test_misuse_exits_with_two(arguments, capsys):
    assert main(arguments) == 2
    assert "Error: " in said(capsys)[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "nothing-here"], "there is no probe nothing-here"),
        (["run", "--model", "nothing.gguf", "Hi"], "there is no model at nothing.gguf"),
        (["run", "--model", "tests", "Hi"], "tests is no model: it holds no config.json"),
        (["demo", "--svg", "nowhere/d.svg"], "there is no folder nowhere for --svg"),
        (["baseline", "log", "--out", "nowhere/b.json"], "there is no folder nowhere for --out"),
        (
            ["corpus", "write", "--model", "m", "--out", "nowhere/c"],
            "there is no folder nowhere for --out",
        ),
    ],
)
def test_a_refusal_is_one_sentence_on_stderr_and_exits_with_one(arguments, sentence, capsys):
    assert main(arguments) == 1
    out, err = said(capsys)
    assert out == ""
    assert err.startswith(f"emoguard: {sentence}")
    assert err.count("\n") == 1


def run_without(library: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from emoguard.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("library", ["click", "rich", "llama_cpp", "gguf"])
def test_a_missing_library_is_one_sentence_with_the_install_command(library, probe_file, tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    vector = str(tmp_path / "v.gguf")
    arguments = {
        "llama_cpp": ["run", "--model", str(model), "Hi"],
        "gguf": ["export", str(probe_file), "--label", "sad", "--out", vector],
    }
    done = run_without(library, *arguments.get(library, ["show"]))
    assert done.returncode == 1
    assert done.stderr == (f"emoguard: this needs {library}: {install_command(library)}\n")


@pytest.mark.parametrize("library", ["sklearn", "vaderSentiment", "matplotlib"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", "--model", "none.gguf", "--card", "nowhere/card"],
        ["compare", "none.gguf", "none.gguf", "--png", "c.png"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_library_for_the_end_of_hours_is_missed_at_their_beginning(library, arguments):
    done = run_without(library, *arguments)
    assert done.returncode == 1
    assert f"needs {library}: {install_command(library)}" in done.stderr
    assert not Path("nowhere").exists()


def test_heavy_libraries_wait_for_the_verb_that_needs_them():
    code = (
        "import sys; from emoguard.cli import main; main(['--help']); main(['show'])\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'gguf', 'prometheus_client'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_show_tells_labels_recipe_card_and_calibration(probe_file, capsys):
    assert main(["show", str(probe_file)]) == 0
    out = said(capsys)[0]
    for shown in ("happy, sad", "valence", "1, 3", "means", "none", "F32", "100", "6400", "KiB"):
        assert shown in out


def test_show_json_is_the_whole_description(probe_file, capsys):
    assert main(["show", str(probe_file), "--json"]) == 0
    shown = json.loads(said(capsys)[0])
    assert shown["labels"] == ["happy", "sad", "valence"]
    assert shown["bytes"] == probe_file.stat().st_size
    assert shown["calibrations"][0]["reference_norms"] == {"1": 3.0, "3": 50.0}


def test_show_without_a_probe_lists_the_shipped_ones(capsys):
    assert main(["show", "--json"]) == 0
    names = [probe["source"] for probe in json.loads(said(capsys)[0])]
    assert main(["show"]) == 0
    out = said(capsys)[0]
    assert all(name in out for name in names)
    assert names or "emoguard fit" in out


def test_a_hostile_probe_file_cannot_write_escape_codes(tmp_path, capsys):
    text = "\x1b[2J[red]\x07"
    probe, calibration = made(labels=("[blue]a", "b", "valence"), card={"[x]": text})
    artifact.save(tmp_path / "p.safetensors", probe, [calibration])
    assert main(["show", str(tmp_path / "p.safetensors")]) == 0
    target = str(tmp_path / "v.gguf")
    assert main(["export", str(tmp_path / "p.safetensors"), "--label", "c", "--out", target]) == 1
    out, err = said(capsys)
    assert "\x1b" not in out + err
    assert "[red]" in out
    assert "[blue]a" in out
    assert "[blue]a" in err


@pytest.mark.parametrize("dose", [0.05, -0.2])
def test_an_exported_vector_equals_the_shift_of_a_plan(probe_file, tmp_path, dose, capsys):
    from gguf import GGUFReader

    out = tmp_path / "v.gguf"
    arguments = ["export", str(probe_file), "--label", "sad", "--out", str(out)]
    assert main([*arguments, f"--dose={dose}"]) == 0
    reader = GGUFReader(out)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "fake"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    probe, calibration = artifact.load(probe_file)[0], artifact.load(probe_file)[1][0]
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert list(tensors) == ["direction.1", "direction.3"]
    steering = prepare(Plan(add={"sad": dose}), probe, calibration, 0.5)
    for norm, each in zip(calibration.norms, steering.interventions, strict=True):
        vector = tensors[f"direction.{each.layer}"]
        assert vector.dtype == np.float32
        assert np.array_equal(vector, each.shift)
        share = abs(dose) / len(LAYERS)
        assert np.linalg.norm(vector) == pytest.approx(share * norm, rel=1e-3)
    assert f"a dose of {dose:g} in all" in said(capsys)[0]


def export(probe: Probe, calibrations: list[Calibration], folder: Path, **options: str) -> int:
    artifact.save(folder / "p.safetensors", probe, calibrations)
    values = {"label": "sad", "out": str(folder / "v.gguf")} | options
    flags = [f"--{name}={value}" for name, value in values.items()]
    return main(["export", str(folder / "p.safetensors"), *flags])


def test_an_impossible_export_is_an_error_and_writes_nothing(tmp_path, capsys):
    probe, calibration = made()
    door = FakeResiduals()
    at_zero = make_probe(door, ("happy", "sad"), (0, 1))
    zero_calibration = make_calibration(at_zero, door.identity)
    assert export(at_zero, [zero_calibration], tmp_path) == 1
    assert "layer 0" in said(capsys)[1]
    assert export(probe, [], tmp_path) == 1
    assert "needs a calibration" in said(capsys)[1]
    assert export(probe, [calibration], tmp_path, label="furious") == 1
    assert "has happy, sad, valence" in said(capsys)[1]
    assert export(probe, [calibration], tmp_path, out="v.safetensors") == 1
    assert "must end in .gguf" in said(capsys)[1]
    assert export(probe, [calibration], tmp_path, out=str(tmp_path / "no" / "v.gguf")) == 1
    assert "there is no folder" in said(capsys)[1]
    assert export(probe, [calibration], tmp_path, dose="0.6") == 2
    assert not (tmp_path / "v.gguf").exists()
