"""`emoguard study` on tiny random models."""

import json

import pytest
from click.testing import CliRunner

from emoguard import EmoGuardError
from emoguard.cli.verbs import verbs
from emoguard.probe import artifact
from emoguard.runtime.openers import open_speaker
from emoguard.testing import make_probe, measure_calibration
from tests.support import tiny_folder, tiny_gguf

PROTOCOL = {
    "name": "tiny",
    "dose": 0.1,
    "samplings": ["greedy", "t1.0"],
    "pilot": {"prompts": 2, "samples": 2, "tokens": 4},
    "expression": {"prompts": 3, "tokens": 4},
    "safety": {"premises": 4, "written": 2, "tokens": 4, "capability": 3, "answer_tokens": 3},
    "nulls": {"directions": 3, "prompts": 2, "tokens": 4},
    "explored": {"prompts": 2, "tokens": 4, "doses": [0.1, 0.2], "labels": []},
    "contrasts": [{"outcome": "premise", "label": "happy", "test": "no_harm"}],
}


def invoke(*arguments):
    return CliRunner().invoke(verbs, [str(a) for a in arguments])


@pytest.fixture(scope="module", params=["transformers", "llamacpp"])
def place(request, tmp_path_factory):
    """A folder with a protocol, a tiny model and a probe calibrated on it."""
    folder = tmp_path_factory.mktemp("study")
    if request.param == "transformers":
        model = tiny_folder.write(folder / "model")
    else:
        pytest.importorskip("llama_cpp")
        model = tiny_gguf.write(folder / "model", "llama")
    door = open_speaker(model).door
    probe = make_probe(door, ("happy", "desperate"))
    artifact.save(folder / "probe.safetensors", probe, [measure_calibration(door, probe)])
    (folder / "tiny.yaml").write_text(json.dumps(PROTOCOL))
    return folder


def arguments(place, out):
    return (
        *("study", place / "tiny.yaml", "--model", place / "model"),
        *("--probe", place / "probe.safetensors", "--threads", 1, "--out", out),
    )


def test_a_study_runs_to_its_end_in_parts_and_draws_again(place, tmp_path):
    out = tmp_path / "out"
    planned = invoke(*arguments(place, out), "--plan")
    assert planned.exit_code == 0, planned.exception
    assert "CPU hours" in planned.output
    assert "it may stay untested" in planned.output
    assert not (out / "results.json").exists()
    for _ in range(100):
        result = invoke(*arguments(place, out), "--minutes", 0.05)
        assert result.exit_code == 0, result.exception
        if (out / "results.json").exists():
            results = json.loads((out / "results.json").read_text())
            if results["about"]["complete"]:
                break
    assert results["about"]["complete"]
    assert "could not be tested" in results["verdict"]
    report = (out / "report.md").read_text()
    assert "## S: what else moves?" in report
    (out / "report.md").unlink()
    again = invoke("study", "--from", out / "results.json")
    assert again.exit_code == 0, again.exception
    assert (out / "report.md").read_text() == report
    assert list(out.glob("piece-*.jsonl.gz"))


def test_impossible_studies_are_refused_before_a_model_is_opened(tmp_path):
    out = tmp_path / "out"
    bored = tmp_path / "bored.yaml"
    bored.write_text(json.dumps({"labels": ["bored"], "prompts": ["none"]}))
    for words, sentence in (
        (("study", bored, "--model", "none", "--out", out), "there is no persona for bored"),
        (("study", "core", "--model", "none", "--out", out), "name their folder by --data"),
        (("study", "nothing", "--model", "none", "--out", out), "one of control, core, quick"),
        (("study", "--from", tmp_path / "none.json"), "cannot be read"),
    ):
        result = invoke(*words)
        assert isinstance(result.exception, EmoGuardError)
        assert sentence in str(result.exception)
    assert not out.exists()
    assert invoke("study", "core").exit_code == 2


def test_a_file_that_is_no_result_is_refused(tmp_path):
    for text, sentence in (
        ("{}", "wanted the results.json of a study"),
        ('{"emoguard": "study"}', "got one in another form"),
        ('{"emoguard": "study", "about": 3}', "got one in another form"),
        ('{"emoguard": "study", "verdict": NaN}', "NaN is not a number"),
        ("[" * 100_000, "nested at most"),
        ('{"emoguard": "study", "about": ' + "[" * 80 + "]" * 80 + "}", "nested at most"),
        ("\ud800", "cannot be read"),
    ):
        (tmp_path / "other.json").write_text(text, errors="surrogatepass")
        result = invoke("study", "--from", tmp_path / "other.json")
        assert isinstance(result.exception, EmoGuardError)
        assert sentence in str(result.exception)
        assert [each.name for each in tmp_path.iterdir()] == ["other.json"]
