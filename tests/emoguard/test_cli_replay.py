"""`emoguard baseline` and `emoguard replay` on stored reports."""

import dataclasses
import json

import numpy as np
import pytest

from emoguard import artifact
from emoguard.baseline import Baseline
from emoguard.cli import main
from emoguard.records import LabelScore
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe, make_report

PROBE = make_probe(FakeResiduals())
USUAL = make_report()


def log(path, count, *, shift=0.0, crossings=0, seed=0, start=1e9, verdicts=None):
    known = verdicts or {}
    means = np.random.default_rng(seed).normal(shift, 1, (count, 2)).tolist()
    lines = []
    for n, (happy, sad) in enumerate(means):
        scores = {
            "happy": LabelScore(happy, 1.0, 0.5, crossings, known.get("happy")),
            "sad": LabelScore(sad, 1.0, 0.5, 0, known.get("sad")),
        }
        report = dataclasses.replace(USUAL, id=f"r{n}", scores=scores, created=start + n)
        lines.append(json.dumps({"line": n, **report.as_dict(), "mac": "0"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "probe.safetensors"
    artifact.save(path, PROBE, [make_calibration(PROBE, FAKE_IDENTITY)])
    return str(path)


def test_a_baseline_is_made_and_drift_is_replayed(tmp_path, capsys):
    parts = [log(tmp_path / "a", 1300), log(tmp_path / "b", 1200, seed=1)]
    out = str(tmp_path / "baseline.json")
    assert main(["baseline", *parts, "--out", out]) == 0
    assert "50 blocks of 50 responses, 2 labels" in capsys.readouterr().out
    assert main(["replay", *parts, "--baseline", out]) == 0
    assert "2,500 reports, alerts: 0 of rate, 0 of drift." in capsys.readouterr().out
    assert main(["replay", log(tmp_path / "c", 1500, shift=1.0), "--baseline", out]) == 0
    told = capsys.readouterr().out
    assert "drift  happy  responses moved up" in told
    assert told.startswith("2001-09-09 ")


def test_a_log_includes_the_files_rotated_away_from_it(tmp_path, capsys):
    log(tmp_path / "audit.jsonl.000000000001", 1300)
    current, out = log(tmp_path / "audit.jsonl", 1200, seed=1), str(tmp_path / "baseline.json")
    assert main(["baseline", current, "--out", out]) == 0
    assert "50 blocks" in capsys.readouterr().out
    assert main(["replay", current]) == 0
    assert "2,500 reports" in capsys.readouterr().out


def test_a_baseline_is_made_of_responses_since_a_time(tmp_path):
    before = log(tmp_path / "a", 3600, shift=9.0)
    after, out = log(tmp_path / "b", 3600, start=1e9 + 3600), tmp_path / "baseline.json"
    arguments = ["baseline", before, after, "--out", str(out), "--since", "2001-09-09T02:46:40"]
    assert main(arguments) == 0
    made = Baseline.load(out)
    assert len(made.blocks) == 72
    assert np.abs(made.columns(["happy"])).max() < 1


def test_labels_that_are_not_monitored_do_not_alarm(tmp_path, probe, capsys):
    out = str(tmp_path / "baseline.json")
    assert main(["baseline", log(tmp_path / "a", 2500), "--out", out]) == 0
    verdicts = {"happy": "not usable", "sad": "usable"}
    judged = dataclasses.replace(PROBE, card={"verdicts": verdicts})
    path = tmp_path / "judged.safetensors"
    artifact.save(path, judged, [make_calibration(judged, FAKE_IDENTITY)])
    shifted = log(tmp_path / "c", 1500, shift=1.0, verdicts=verdicts)
    for asked in ([], ["--probe", str(path)]):
        assert main(["replay", shifted, "--baseline", out, *asked]) == 0
        told = capsys.readouterr().out
        assert "drift  sad" in told
        assert "drift  happy" not in told


def test_a_policy_names_the_baseline_and_the_labels(tmp_path, capsys):
    out, policy = tmp_path / "baseline.json", tmp_path / "policy.yml"
    assert main(["baseline", log(tmp_path / "a", 2500), "--out", str(out)]) == 0
    policy.write_text(f"labels: [sad]\ndrift: {{baseline: {out}}}\n", encoding="utf-8")
    shifted = log(tmp_path / "c", 1500, shift=1.0)
    assert main(["replay", shifted, "--policy", str(policy)]) == 0
    told = capsys.readouterr().out
    assert "drift  sad" in told
    assert "drift  happy" not in told
    assert "Rates had no thresholds" in told


def test_rates_are_replayed_with_the_thresholds_of_the_probe(tmp_path, probe, capsys):
    assert main(["replay", log(tmp_path / "a", 200, crossings=1), "--probe", probe]) == 0
    told = capsys.readouterr().out
    assert "rate  happy  more responses cross the threshold" in told
    assert "Drift had no baseline" in told
    assert main(["replay", log(tmp_path / "b", 200), "--probe", probe]) == 0
    assert "0 of rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["baseline", "{log}", "--out", "{tmp}/b.json"], "got 100: let more traffic pass"),
        (["baseline", "{tmp}/none", "--out", "{tmp}/b.json"], "there is no audit log"),
        (["baseline", "{log}", "{tmp}/none", "--out", "{tmp}/b.json"], "cannot be read"),
        (["baseline", "{log}", "--since", "2001-09-10", "--out", "{tmp}/b.json"], "got 0: let"),
        (["replay", "{empty}"], "holds no report"),
        (["replay", "{text}"], "text:1: wanted a report"),
        (["replay", "{log}", "--probe", "smollm2-135m-instruct"], "no calibration for the model"),
        (["replay", "{log}", "--baseline", "{text}"], "no sound baseline"),
        (["replay", "{log}", "--policy", "{tmp}/none"], "none"),
    ],
)
def test_what_is_refused_is_one_sentence(tmp_path, capsys, arguments, sentence):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello\n")
    places = {
        "log": log(tmp_path / "log", 100),
        "tmp": tmp_path,
        "empty": tmp_path / "empty",
        "text": tmp_path / "text",
    }
    assert main([part.format(**places) for part in arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "b.json").exists()


def test_hostile_names_are_printed_harmlessly(tmp_path, probe, capsys):
    path = log(tmp_path / "a", 60, crossings=1)
    text = (tmp_path / "a").read_text().replace('"id": "r', '"id": "\\u001b[31m[bold]r')
    (tmp_path / "a").write_text(text)
    assert main(["replay", path, "--probe", probe]) == 0
    told = capsys.readouterr().out
    assert "[bold]r" in told
    assert "\x1b" not in told
