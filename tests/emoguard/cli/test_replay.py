"""`emoguard baseline` and `emoguard replay` on stored reports."""

import dataclasses
import json

import numpy as np
import pytest
from emoguard_jsonl import AuditLog, Key

from emoguard.cli import main
from emoguard.probe import artifact
from emoguard.records import LabelScore
from emoguard.sinks.baseline import Baseline
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe, make_report

PROBE = make_probe(FakeResiduals())
USUAL = make_report()
SECRET = bytes(range(32))


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("K", SECRET.hex())


def run(*arguments):
    return main([*map(str, arguments), "--key-env", "K"])


def log(path, count, *, shift=0.0, crossings=0, seed=0, start=1e9, verdicts=None, name="r"):
    known = verdicts or {}
    means = np.random.default_rng(seed).normal(shift, 1, (count, 2)).tolist()
    written = AuditLog(path, Key(SECRET), fsync_seconds=None)
    for n, (happy, sad) in enumerate(means):
        scores = {
            "happy": LabelScore(happy, 1.0, 0.5, crossings, known.get("happy")),
            "sad": LabelScore(sad, 1.0, 0.5, 0, known.get("sad")),
        }
        written.report(
            dataclasses.replace(USUAL, id=f"{name}{n}", scores=scores, created=start + n)
        )
    written.close()
    return str(path)


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "probe.safetensors"
    artifact.save(path, PROBE, [make_calibration(PROBE, FAKE_IDENTITY)])
    return str(path)


def test_a_baseline_is_made_and_drift_is_replayed(tmp_path, capsys):
    parts = [log(tmp_path / "a", 1300), log(tmp_path / "b", 1200, seed=1)]
    out = str(tmp_path / "baseline.json")
    assert run("baseline", *parts, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "2,500 responses, 2 labels. Drift can see mean z move by 0.1" in shown
    assert Baseline.load(out).block_responses == 1
    assert run("replay", *parts, "--baseline", out) == 0
    assert "2,500 reports, alerts: 0 of rate, 0 of drift." in capsys.readouterr().out
    assert run("replay", log(tmp_path / "c", 1500, shift=1.0), "--baseline", out) == 0
    shown = capsys.readouterr().out
    assert "drift  happy  responses moved up" in shown
    assert shown.startswith("2001-09-09 ")


def test_a_log_includes_the_files_rotated_away_from_it(tmp_path, capsys):
    current, out = tmp_path / "audit.jsonl", tmp_path / "baseline.json"
    log(current, 1300)
    older = current.rename(f"{current}.000000000001")
    log(current, 1200, seed=1)
    assert run("baseline", current, "--out", out) == 0
    assert "2,500 responses, 2 labels" in capsys.readouterr().out
    for files in ([current], [older, current], [current, older], [current, current]):
        assert run("replay", *files) == 0
        printed = capsys.readouterr()
        assert "2,500 reports" in printed.out
        assert not printed.err


def test_a_baseline_is_made_of_responses_since_a_time(tmp_path):
    before = log(tmp_path / "a", 3600, shift=9.0)
    after, out = log(tmp_path / "b", 3600, start=1e9 + 3600), tmp_path / "baseline.json"
    arguments = ["baseline", before, after, "--out", str(out), "--since", "2001-09-09T02:46:40"]
    assert run(*arguments) == 0
    baseline = Baseline.load(out)
    assert len(baseline.blocks) == 3600
    assert np.abs(baseline.columns(["happy"])).max() < 5


def test_reports_before_a_time_are_left_out_of_a_replay(tmp_path, capsys):
    path = log(tmp_path / "a", 3600, start=1e9)
    assert run("replay", path, "--since", "2001-09-09T02:16:40") == 0
    assert "1,800 reports" in capsys.readouterr().out
    assert run("replay", path, "--since", "2001-09-10") == 1
    assert "holds no report since 2001-09-10 00:00:00 UTC" in capsys.readouterr().err


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_the_answers_behind_an_alert_are_those_furthest_the_way_it_moved(tmp_path, capsys, shift):
    out = str(tmp_path / "baseline.json")
    usual, moved = log(tmp_path / "a", 2500), log(tmp_path / "b", 200, shift=shift, name="late")
    assert run("baseline", usual, "--out", out) == 0
    capsys.readouterr()

    assert run("replay", usual, moved, "--baseline", out) == 0

    lines = capsys.readouterr().out.splitlines()
    first = next(n for n, line in enumerate(lines) if "drift" in line)
    named = lines[first + 1].removeprefix("  behind it: ").split(", ")
    means = [float(each[each.index("(") + 1 : -1]) for each in named]
    assert len(named) == 3
    assert all(each.startswith("late") for each in named)
    assert means == sorted(means, reverse=shift > 0)
    assert min(np.abs(means)) > 2


def test_a_replay_counts_the_answers_that_a_judge_would_read(tmp_path, capsys):
    flagged = log(tmp_path / "b", 10, crossings=2, name="f")
    assert run("replay", log(tmp_path / "a", 190), flagged) == 0
    assert "10 answers crossed a threshold (5 %)" in capsys.readouterr().out


def test_labels_that_are_not_monitored_do_not_alarm(tmp_path, probe, capsys):
    out = str(tmp_path / "baseline.json")
    assert run("baseline", log(tmp_path / "a", 2500), "--out", out) == 0
    verdicts = {"happy": "not usable", "sad": "usable"}
    judged = dataclasses.replace(PROBE, card={"verdicts": verdicts})
    path = tmp_path / "judged.safetensors"
    artifact.save(path, judged, [make_calibration(judged, FAKE_IDENTITY)])
    shifted = log(tmp_path / "c", 1500, shift=1.0, verdicts=verdicts)
    for options in ([], ["--probe", str(path)]):
        assert run("replay", shifted, "--baseline", out, *options) == 0
        shown = capsys.readouterr().out
        assert "drift  sad" in shown
        assert "drift  happy" not in shown


def test_a_policy_names_the_baseline_and_the_labels(tmp_path, capsys):
    out, policy = tmp_path / "baseline.json", tmp_path / "policy.yml"
    assert run("baseline", log(tmp_path / "a", 2500), "--out", str(out)) == 0
    policy.write_text(f"labels: [sad]\ndrift: {{baseline: {out}}}\n", encoding="utf-8")
    shifted = log(tmp_path / "c", 1500, shift=1.0)
    assert run("replay", shifted, "--policy", str(policy)) == 0
    shown = capsys.readouterr().out
    assert "drift  sad" in shown
    assert "drift  happy" not in shown
    assert "Rates had no thresholds" in shown


def test_rates_are_replayed_with_the_thresholds_of_the_probe(tmp_path, probe, capsys):
    assert run("replay", log(tmp_path / "a", 200, crossings=1), "--probe", probe) == 0
    shown = capsys.readouterr().out
    assert "rate  happy  more responses cross the threshold" in shown
    assert "Drift had no baseline" in shown
    assert run("replay", log(tmp_path / "b", 200), "--probe", probe) == 0
    assert "0 of rate" in capsys.readouterr().out


def forged(mean, count, head=""):
    """Lines that no key vouches for."""
    score = {"mean": mean, "peak": mean, "rank": 1.0, "crossings": 9}
    data = USUAL.as_dict() | {"scores": {"happy": score, "sad": score}}
    return "".join(f"{{{head}{json.dumps(data | {'id': f'f{n}'})[1:]}\n" for n in range(count))


@pytest.mark.parametrize(
    "head",
    [
        "",
        '"line":2501,"prev":"' + "0" * 64 + '",',
        '"line":2501,"prev":"' + "0" * 64 + '","mac":"' + "0" * 64 + '",',
    ],
    ids=["reports", "unsigned lines", "mac in the wrong place"],
)
def test_lines_that_verify_does_not_accept_move_nothing(tmp_path, capsys, head):
    path, out = tmp_path / "a", tmp_path / "baseline.json"
    log(path, 2500)
    assert run("baseline", path, "--out", out) == 0
    honest = Baseline.load(out).blocks
    with path.open("a") as file:
        file.write(forged(9.0, 2600, head))
    assert run("audit", "verify", path) == 1
    capsys.readouterr()
    assert run("baseline", path, "--out", out) == 0
    assert Baseline.load(out).blocks == honest
    error = capsys.readouterr().err
    assert "NOT SOUND: foreign: " in error
    assert "row 2501 and the 2,599 after it are no line of this log" in error
    assert run("replay", path, "--baseline", out) == 0
    printed = capsys.readouterr()
    assert "2,500 reports, alerts: 0 of rate, 0 of drift." in printed.out
    assert "NOT SOUND" in printed.err


def test_lines_written_again_count_once(tmp_path, capsys):
    path = tmp_path / "a"
    log(path, 60)
    path.write_bytes(path.read_bytes() * 3)
    assert run("replay", path) == 0
    printed = capsys.readouterr()
    assert "60 reports" in printed.out
    assert "NOT SOUND: misplaced" in printed.err


def test_with_another_key_there_is_no_report(tmp_path, capsys, monkeypatch):
    log(tmp_path / "a", 60)
    monkeypatch.setenv("K", "0" * 64)
    assert run("replay", tmp_path / "a") == 1
    assert "its MAC is wrong" in capsys.readouterr().err


def test_the_key_may_be_a_file_or_that_of_the_policy(tmp_path, capsys):
    path, key_file, policy = log(tmp_path / "a", 60), tmp_path / "key", tmp_path / "policy.yml"
    key_file.write_text(SECRET.hex())
    assert main(["replay", path, "--key-file", str(key_file)]) == 0
    for place in (f"key_file: {key_file}", "key_env: K"):
        policy.write_text(f"sinks: [{{jsonl: {{path: {path}, {place}}}}}]\n")
        assert main(["replay", path, "--policy", str(policy)]) == 0
    policy.write_text("sinks: [{rate: {}}]\n")
    capsys.readouterr()
    for arguments in (
        ["replay", path],
        ["replay", path, "--policy", str(policy)],
        ["baseline", path, "--out", str(tmp_path / "b")],
        ["replay", path, "--key-env", "K", "--key-file", str(key_file)],
    ):
        assert main(arguments) == 2
        assert "give --key-file or --key-env" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["baseline", "{log}", "--out", "{tmp}/b.json"], "got 100: let more traffic pass"),
        (["baseline", "{tmp}/none", "--out", "{tmp}/b.json"], "there is no audit log"),
        (["baseline", "{log}", "{tmp}/none", "--out", "{tmp}/b.json"], "there is no audit log"),
        (["baseline", "{log}", "--since", "2001-09-10", "--out", "{tmp}/b.json"], "got 0: let"),
        (["replay", "{empty}"], "holds no report"),
        (["replay", "{text}"], "row 1 is no line of this log"),
        (["replay", "{text}"], "text holds no report"),
        (["replay", "{tmp}"], "wanted a regular file, got a folder"),
        (["replay", "{log}", "--probe", "smollm2-135m-instruct"], "no calibration for the model"),
        (["replay", "{log}", "--baseline", "{text}"], "no sound baseline"),
        (["replay", "{log}", "--policy", "{tmp}/none"], "none"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, capsys, arguments, sentence):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello\n")
    places = {
        "log": log(tmp_path / "log", 100),
        "tmp": tmp_path,
        "empty": tmp_path / "empty",
        "text": tmp_path / "text",
    }
    assert run(*(part.format(**places) for part in arguments)) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "b.json").exists()


def test_hostile_names_are_printed_harmlessly(tmp_path, probe, capsys):
    path = log(tmp_path / "a", 60, crossings=1, name="\x1b[31m[bold]\ud83dr")
    assert run("replay", path, "--probe", probe) == 0
    shown = capsys.readouterr().out
    assert "[bold]\ufffdr" in shown
    assert "\x1b" not in shown
