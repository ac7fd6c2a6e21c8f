"""`emoguard dose`, and the plans of `emoguard run`, on tiny random models."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from emoguard import EmoGuardError, Guard, Plan
from emoguard.cli.dose import find_judge, read_openings, signs
from emoguard.cli.plans import read_plan
from emoguard.cli.verbs import verbs
from emoguard.probe import artifact
from emoguard.runtime.openers import open_speaker
from emoguard.testing import FakeResiduals, make_probe, measure_calibration
from tests.support import tiny_folder, tiny_gguf


def no_number(_):
    return float("nan")


def count_vowels(text):
    return sum(text.count(vowel) for vowel in "aeiou") / max(1, len(text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Transformers model with a tokenizer of bytes, and a probe calibrated on it."""
    path = tiny_folder.write(tmp_path_factory.mktemp("model"))
    door = open_speaker(path).door
    probe = make_probe(door, ("happy", "sad"))
    artifact.save(path / "probe.safetensors", probe, [measure_calibration(door, probe)])
    return path


def invoke(*arguments):
    return CliRunner().invoke(verbs, [str(a) for a in arguments])


def test_dose_measures_a_model_and_writes_the_results(folder, tmp_path):
    result = invoke(
        *("dose", "--model", folder, "--probe", folder / "probe.safetensors"),
        *("--count", 4, "--random", 3, "--tokens", 5, "--judge", f"{__name__}:count_vowels"),
        *("--json", tmp_path / "dose.json", "--plot", tmp_path / "dose.png"),
    )
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "dose.json").read_text())
    assert (data["prompts"], data["randoms"]) == (4, 3)
    assert [label["label"] for label in data["labels"]] == ["happy", "sad"]
    assert [label["sign"] for label in data["labels"]] == [1, -1]
    for label in data["labels"]:
        assert len(label["curve"]) == 8
        for effect in label["curve"]:
            assert 0 < effect["realised"] <= abs(effect["dose"]) * 1.2
        assert all(e["p"] in (0.25, 0.5, 0.75, 1.0) for e in (*label["test"], *label["default"]))
    assert (tmp_path / "dose.png").read_bytes().startswith(b"\x89PNG")


def test_dose_without_a_calibration_of_the_file_is_refused(folder, tmp_path):
    probe, _ = artifact.load(folder / "probe.safetensors")
    artifact.save(tmp_path / "bare.safetensors", probe)
    result = invoke("dose", "--model", folder, "--probe", tmp_path / "bare.safetensors")
    assert isinstance(result.exception, EmoGuardError)
    # A folder is opened by no other runtime; a GGUF file is, and then has another identity.
    command = f"emoguard calibrate --model {folder} --probe {tmp_path / 'bare.safetensors'}"
    assert command in str(result.exception)


def test_a_gguf_file_is_calibrated_in_the_runtime_that_doses_it(tmp_path):
    model = tiny_gguf.write(tmp_path / "tiny.gguf", "llama")
    door = open_speaker(model, "transformers").door
    artifact.save(tmp_path / "p.safetensors", make_probe(door, ("happy", "sad")))
    result = invoke("dose", "--model", model, "--probe", tmp_path / "p.safetensors")
    command = str(result.exception).partition("make one with emoguard ")[2].split()
    out = command[command.index("--out") + 1]
    short = ("--responses", 8, "--tokens", 16)
    assert invoke(*command, *short).exit_code == 0
    doses = ("--count", 4, "--random", 0, "--tokens", 4, "--judge", f"{__name__}:count_vowels")
    result = invoke("dose", "--model", model, "--probe", out, *doses)
    assert result.exit_code == 0, result.exception


def test_a_place_that_is_not_there_is_refused_before_anything_is_measured(folder, tmp_path):
    for option in ("--json", "--plot"):
        result = invoke("dose", "--model", "none", option, tmp_path / "no" / "dose.png")
        assert isinstance(result.exception, EmoGuardError)
        assert f"there is no folder {tmp_path / 'no'}" in str(result.exception)


def test_a_label_named_twice_is_refused_before_a_model_is_opened():
    result = invoke("dose", "--model", "none", "--label", "happy", "--label", "happy")
    assert isinstance(result.exception, EmoGuardError)
    assert "happy is named twice" in str(result.exception)


def test_the_openings_shipped_are_enough_and_all_different():
    openings = read_openings(None, 80)
    assert len(set(openings)) == 80
    with pytest.raises(EmoGuardError, match="wanted 1000 prompts"):
        read_openings(None, 1000)


def test_vader_is_the_judge_unless_another_is_named():
    judge = find_judge("vader")
    assert judge("What a wonderful day") > 0 > judge("What a horrible day")
    assert find_judge(f"{__name__}:count_vowels")("ab") == 0.5
    for wrong in (
        "nowhere:f", f"{__name__}:nothing", "json", ".mine:f", "os:sep", "json:dumps", "gc:collect",
    ):  # fmt: skip
        with pytest.raises(EmoGuardError, match="module:function"):
            find_judge(wrong)
    with pytest.raises(EmoGuardError, match="wanted a number for a plain sentence, got nan"):
        find_judge(f"{__name__}:no_number")


def test_the_sign_of_a_label_is_its_valence_and_an_axis_points_up():
    guard = Guard(make_probe(FakeResiduals(), ("sad", "calm", "valence", "mine")))
    assert signs(guard, guard.labels) == [("sad", -1), ("calm", 1), ("valence", 1), ("mine", 1)]
    recipe = {"labels": {"mine": {"words": ["mine"], "valence": -1}}}
    mine = Guard(dataclasses.replace(guard.probe, recipe=recipe))
    assert signs(mine, ("mine", "valence")) == [("mine", -1), ("valence", 1)]
    with pytest.raises(EmoGuardError, match="unknown label joy"):
        signs(guard, ("joy",))


def test_a_label_without_a_valence_is_expected_to_please():
    recipe = {"labels": {"sarcastic": {"words": ["sarcastic"]}}}
    guard = Guard(
        dataclasses.replace(make_probe(FakeResiduals(), ("sarcastic", "sad")), recipe=recipe)
    )
    assert signs(guard, ("sarcastic",)) == [("sarcastic", 1)]


def test_options_make_a_plan():
    plan = read_plan(["calm=.05", "sad=-0.1"], ["desperate=.99"], ["calm=0.5"], ["angry"])
    assert plan == Plan(
        add={"calm": 0.05, "sad": -0.1},
        cap={"desperate": 0.99},
        floor={"calm": 0.5},
        ablate=("angry",),
    )
    assert read_plan([], [], [], []) is None


@pytest.mark.parametrize(
    ("steer", "sentence"),
    [
        (["calm"], "LABEL=NUMBER"),
        (["calm=much"], "LABEL=NUMBER"),
        (["calm=nan"], "finite"),
        (["calm=1", "calm=2"], "names calm twice"),
    ],
)
def test_options_that_make_no_plan_are_refused(steer, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        read_plan(steer, [], [], [])


def test_run_steers_and_says_by_how_much(folder):
    arguments = ("run", "--model", folder, "--probe", folder / "probe.safetensors", "--raw")
    arguments += ("--max-tokens", 6, "--steer", "happy=.05", "--cap", "sad=.9", "hello there")
    shown = invoke(*arguments)
    assert shown.exit_code == 0, shown.output
    assert "steered: happy +0.05, sad ≤ q0.9 at layers 1, 2; 6 tokens moved" in " ".join(
        shown.output.split()
    )
    receipt = json.loads(invoke(*arguments, "--json").output)["report"]["receipt"]
    assert receipt["plan"] == {"add": {"happy": 0.05}, "cap": {"sad": 0.9}}
    assert receipt["applied"] == 6
    refused = invoke(*arguments[:-5], "--steer", "happy=.2", "hello")
    assert "max_dose_ratio" in str(refused.exception)
