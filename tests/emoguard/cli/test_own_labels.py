"""Labels of one's own: named on the command line, fitted, judged and used like ours."""

import json
from pathlib import Path

import numpy as np
import pytest

import emoguard
from emoguard import Guard
from emoguard.cli import main
from emoguard.probe import artifact
from tests.support import tiny_gguf
from tests.support.models import load_llama

LABELS = "sarcastic,sincere"


def texts(seed, label=None, count=24):
    rng = np.random.default_rng(seed)

    def one():
        return " ".join("".join(rng.choice(list("etaoinshr"), 4)) for _ in range(12))

    named = {} if label is None else {"emotion": label}
    return [named | {"topic": f"t{n % 12}", "text": one()} for n in range(count)]


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path):
    both = [
        [*texts([n, 0], "sarcastic"), *texts([n, 1], "sincere"), *texts([n, 2], "bored", 3)]
        for n in range(2)
    ]
    return {
        "--model": str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama")),
        "one": write(tmp_path / "one.jsonl", both[0]),
        "other": write(tmp_path / "other.jsonl", both[1]),
        "--neutral": write(tmp_path / "neutral.jsonl", texts(9)),
    }


@pytest.mark.slow
def test_a_probe_of_named_labels_has_no_axis_and_is_judged_and_read(tmp_path, files, capsys):
    options = ["--model", files["--model"], "--corpus", files["one"], "--corpus", files["other"]]
    options += ["--neutral", files["--neutral"]]
    out, judged = str(tmp_path / "p.safetensors"), str(tmp_path / "q.safetensors")
    fit = ["fit", *options, "--labels", LABELS, "--out", out, "--skip", "2", "--layers", "1,2"]
    assert main([*fit, "--tokens", "16", "--responses", "8"]) == 0
    # The probe knows its labels: they need not be named again.
    judge = ["validate", *options, "--probe", out, "--out", judged, "--no-on-policy"]
    assert main([*judge, "--card", str(tmp_path / "card"), "--threads", "1"]) == 0
    probe, calibrations = artifact.load(judged)
    assert probe.labels == ("sarcastic", "sincere")
    assert probe.axes == ()
    assert set(probe.card["verdicts"]) == {"sarcastic", "sincere"}
    assert set(probe.card["verdicts"].values()) <= {"weak", "not usable"}, "the texts are noise"
    assert probe.card["leaks"] == {}
    capsys.readouterr()
    assert main(["show", judged]) == 0
    assert "contrasts" in capsys.readouterr().out
    llm = load_llama(files["--model"])
    with emoguard.attach(llm, Guard(probe, calibrations)) as watch:
        llm.create_completion("toast is heat", max_tokens=4, temperature=0.0)
        assert list(watch.reports[-1].scores) == ["sarcastic", "sincere"]


@pytest.mark.slow
def test_with_one_corpus_named_labels_stay_untested_or_worse(tmp_path, files):
    options = ["--model", files["--model"], "--corpus", files["one"], "--labels", LABELS]
    card = tmp_path / "card"
    judge = ["validate", *options, "--neutral", files["--neutral"], "--card", str(card)]
    assert main([*judge, "--threads", "1"]) == 0
    validation = json.loads((card / "validation.json").read_text())
    assert set(validation["verdicts"].values()) <= {"untested", "not usable"}
    assert validation["axis"] is None


def test_one_label_alone_is_refused_and_corpora_that_share_a_text(tmp_path, files, capsys):
    (tmp_path / "l.json").write_text('{"sincere": {"words": ["sincere"]}}')
    options = ["--model", files["--model"], "--neutral", files["--neutral"]]
    fit = ["fit", *options, "--corpus", files["one"], "--out", str(tmp_path / "p.safetensors")]
    assert main([*fit, "--labels", str(tmp_path / "l.json")]) == 1
    assert "name two at least" in capsys.readouterr().err
    first = Path(files["one"]).read_text().splitlines()[0]
    other = Path(files["other"])
    other.write_text(f"{other.read_text()}\n{first}")
    judge = ["validate", *options, "--labels", LABELS, "--card", str(tmp_path / "card")]
    assert main([*judge, "--corpus", files["one"], "--corpus", files["other"]]) == 1
    error = capsys.readouterr().err
    assert "corpora one and other share texts" in error
    assert "other.jsonl:52" in error
    assert not (tmp_path / "card").exists()


def test_texts_that_repeat_are_read_once_and_said(tmp_path, files, capsys):
    (tmp_path / "card").mkdir()
    twice = [*texts(9), *texts(9)[:3]]
    options = ["--model", files["--model"], "--neutral", write(tmp_path / "n.jsonl", twice)]
    options += ["--corpus", files["one"], "--labels", LABELS, "--layers", "1", "--skip", "2"]
    fit = ["fit", *options, "--out", str(tmp_path / "p.safetensors")]
    assert main([*fit, "--tokens", "16", "--responses", "8"]) == 0
    assert f"Left out 3 of 27 texts, which repeat others: the first at {tmp_path}/n.jsonl:25." in (
        capsys.readouterr().err
    )
    assert artifact.load(tmp_path / "p.safetensors")[0].recipe["neutral_texts"] == 24
