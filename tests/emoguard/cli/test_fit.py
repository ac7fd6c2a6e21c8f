"""`emoguard fit`, from corpus to a probe file that reads."""

import dataclasses
import html
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emoguard_llamacpp.speaker import LlamaSpeaker
from hypothesis import given
from hypothesis import strategies as st

import emoguard
from emoguard import Guard
from emoguard.cli import main
from emoguard.cli.fit import _is_begun, _named
from emoguard.fit import calibrating, corpora
from emoguard.fit.forecast import MOST_RESPONSES
from emoguard.fit.store import RowStore, rows_done
from emoguard.probe import artifact
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_probe
from tests.support import models, tiny_gguf
from tests.support.models import DATA, load_llama, smollm2_gguf


def write(path, records):
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def texts(tmp_path):
    rng = np.random.default_rng(0)

    def text():
        return " ".join("".join(rng.choice(list("etaoinshr"), 4)) for _ in range(12))

    words = [word for label in corpora.default_labels() for word in label.words[:1]]
    stories = [
        {"emotion": word, "topic": f"t{n}", "text": text()} for word in words for n in range(6)
    ]
    return (
        write(tmp_path / "stories.jsonl", stories),
        write(tmp_path / "neutral.jsonl", [{"text": text()} for _ in range(20)]),
    )


def test_fit_writes_a_probe_that_attaches_to_its_model(tmp_path, texts, capsys, monkeypatch):
    monkeypatch.setattr(models, "CACHE", tmp_path)
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    other = str(models.quantised(Path(model), "F16"))
    out = tmp_path / "probe.safetensors"
    stories, neutral = texts
    arguments = ["fit", "--model", model, "--corpus", stories, "--neutral", neutral]
    arguments += ["--out", str(out), "--tokens", "40", "--name", "mine", "--skip", "2"]
    arguments += ["--responses", "20"]
    assert main([*arguments, "--also", other, "--layers", "1,2"]) == 0
    assert "13 labels at layers 1, 2" in capsys.readouterr().out
    probe, calibrations = artifact.load(out)
    assert probe.name.startswith("mine@")
    assert len(calibrations) == 2
    assert any(doubt.startswith("not judged: label happy needs") for doubt in probe.cautions)
    assert probe.recipe["sources"] == ["stories.jsonl"]
    assert not (tmp_path / "probe.safetensors.residuals").exists()
    llm = load_llama(model)
    with emoguard.attach(llm, Guard.load(out)) as watch:
        llm.create_completion("toast is heat", max_tokens=4, temperature=0.0)
        assert watch.reports[-1].status == "scored"


def test_another_file_of_the_weights_may_answer(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(models, "CACHE", tmp_path)
    model = tiny_gguf.write(tmp_path / "tiny.gguf", "llama")
    served = models.quantised(model, "F16")
    out = tmp_path / "probe.safetensors"
    stories, neutral = texts
    arguments = ["fit", "--model", str(model), "--responder", str(served), "--corpus", stories]
    arguments += ["--neutral", neutral, "--out", str(out), "--tokens", "16", "--skip", "2"]
    assert main([*arguments, "--responses", "8", "--layers", "1"]) == 0
    _, calibrations = artifact.load(out)
    assert [c.identity.quantisation for c in calibrations] == ["F16", "F32"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"blocks": 7}, "same weights as --model"), ({"seed": 1}, "does not sit where")],
    ids=["size", "weights"],
)
def test_another_model_is_not_calibrated(tmp_path, texts, capsys, changes, sentence):
    model = tiny_gguf.write(tmp_path / "tiny.gguf", "llama")
    other = tiny_gguf.write(tmp_path / "other.gguf", "llama", **changes)
    out = tmp_path / "p.safetensors"
    stories, neutral = texts
    arguments = ["fit", "--model", str(model), "--also", str(other), "--corpus", stories]
    arguments += ["--neutral", neutral, "--out", str(out), "--tokens", "16", "--skip", "2"]
    assert main([*arguments, "--responses", "8", "--layers", "1"]) == 1
    assert sentence in capsys.readouterr().err
    assert not out.exists()
    assert not Path(f"{out}.answers.jsonl").exists()  # said before any answer
    assert Path(f"{out}.residuals").exists() == ("seed" in changes)  # a size before any text


def test_labels_of_ones_own(tmp_path, texts, capsys):
    labels = {
        "bright": {"words": ["happy", "calm"], "valence": 1},
        "dim": {"words": ["sad"], "valence": -1},
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    stories, neutral = texts
    out = tmp_path / "p.safetensors"
    arguments = ["fit", "--model", str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))]
    arguments += ["--corpus", stories, "--neutral", neutral, "--out", str(out), "--skip", "2"]
    arguments += ["--tokens", "16", "--responses", "8", "--layers", "1"]
    arguments += ["--labels", str(tmp_path / "labels.json")]
    assert main(arguments) == 0
    probe, _ = artifact.load(out)
    assert probe.labels == ("bright", "dim", "valence")
    assert probe.recipe["texts"] == [18]
    assert corpora.recorded_labels(probe.recipe) == corpora.read_labels(tmp_path / "labels.json")
    card = tmp_path / "card"
    judge = ["validate", "--model", arguments[2], "--probe", str(out), "--corpus", stories]
    judge += ["--neutral", neutral, "--card", str(card), "--no-on-policy"]
    assert main(judge) == 1  # bright has texts enough, dim has six
    assert "label dim needs at least 10 texts" in capsys.readouterr().err
    assert not card.exists()  # said before anything is read
    labels["valence"] = labels.pop("dim")
    (tmp_path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    assert main(arguments) == 1
    assert "valence is the axis" in capsys.readouterr().err


def test_a_name_that_no_file_can_hold_is_refused_before_anything_is_read(tmp_path, texts, capsys):
    model = tiny_gguf.write(tmp_path / "tiny.gguf", "llama")
    out = tmp_path / "p.safetensors"
    arguments = ["fit", "--model", str(model), "--corpus", texts[0], "--neutral", texts[1]]
    assert main([*arguments, "--out", str(out), "--name", "two\nlines"]) == 1
    assert "--name: wanted 1 to 1,000 printable characters" in capsys.readouterr().err
    assert not list(tmp_path.glob("p.safetensors*"))


@given(st.text())
def test_a_probe_file_can_hold_the_default_name_whatever_the_model_is_called(name):
    artifact.check_name(_named(dataclasses.replace(FAKE_IDENTITY, name=name)), "the name")


def test_a_default_name_is_the_models_in_one_line():
    for name, wanted in ((" Tiny\u00a0model\n(v2) ", "Tiny model (v2)"), ("\t", "probe")):
        assert _named(dataclasses.replace(FAKE_IDENTITY, name=name)) == wanted


@pytest.fixture
def two_writers(tmp_path):
    """Options of a fit on two corpora that can be judged, and of a tiny model."""
    rng = np.random.default_rng(1)
    words = [label.words[0] for label in corpora.default_labels()]

    def text():
        return " ".join("".join(rng.choice(list("etaoinshr"), 3)) for _ in range(8))

    options = {"--model": str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))}
    for name in ("one", "two"):
        rows = [
            {"emotion": w, "topic": f"t{n % 10}", "text": text()} for w in words for n in range(20)
        ]
        options[f"--corpus {name}"] = write(tmp_path / f"{name}.jsonl", rows)
    options["--neutral"] = write(tmp_path / "n.jsonl", [{"text": text()} for _ in range(30)])
    options |= {"--tokens": "20", "--responses": "50", "--skip": "2", "--threads": "1"}
    return ["fit", *(part for k, v in options.items() for part in (k.split()[0], v))]


def test_a_quick_fit_is_provisional_and_finished_from_where_it_is(
    tmp_path, two_writers, capsys, monkeypatch
):
    out = tmp_path / "p.safetensors"
    assert main([*two_writers, "--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "A provisional probe for tiny random llama" in printed.err
    assert "Caution: provisional" in printed.err
    finish = next(line for line in printed.out.splitlines() if line.startswith("Finish it with: "))
    quick, (calibration,) = artifact.load(out)
    assert quick.is_provisional
    assert quick.recipe["texts"] == [18 * 12, 18 * 12]
    assert calibration.responses < 50
    assert set(quick.verdicts.values()) == {"not usable"}  # random texts mean nothing
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    assert finish.removeprefix("Finish it with: ") in html.unescape(page)
    judge = next(line for line in html.unescape(page).splitlines() if "emoguard validate" in line)
    assert judge.partition("emoguard validate")[2].count("--corpus") == 2  # its own
    read, spoken = [], []
    monkeypatch.setattr(RowStore, "write", kept(RowStore.write, read.extend))
    monkeypatch.setattr(
        LlamaSpeaker, "respond", counted(LlamaSpeaker.respond, lambda p: spoken.append(p.text))
    )
    assert main(shlex.split(finish.removeprefix("Finish it with: emoguard "))) == 0
    printed = capsys.readouterr()
    assert "provisional" not in printed.out
    assert "With --quick about" not in printed.err  # that is behind us
    whole, _ = artifact.load(out)
    assert not whole.is_provisional
    assert whole.recipe["texts"] == [240, 240]
    texts = 2 * 12 * 2 + 30 - 24
    answers = read[texts:]
    assert sorted(answers) == list(range(len(answers)))  # all are read with the new directions
    asked_again = set(spoken) & set(calibrating.own_prompts()[:40])
    assert len(asked_again) <= MOST_RESPONSES  # but for the measurement
    assert not list(tmp_path.glob("p.safetensors.*"))


def kept(write, seen):
    def writing(store, rows, values):
        seen(list(rows))
        write(store, rows, values)

    return writing


def counted(respond, seen):
    def responding(speaker, prompt):
        seen(prompt)
        return respond(speaker, prompt)

    return responding


def test_an_estimate_makes_nothing(tmp_path, two_writers, capsys):
    assert main([*two_writers, "--estimate", "--out", str(tmp_path / "p.safetensors")]) == 0
    printed = capsys.readouterr().err
    assert "read texts" in printed
    assert "With --quick about" in printed
    assert not list(tmp_path.glob("p.*"))


def test_without_a_name_a_finished_probe_is_not_replaced(
    tmp_path, two_writers, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-probe.safetensors").write_bytes(b"finished")
    assert main(two_writers) == 1
    assert "tiny-probe.safetensors is there already, and finished" in capsys.readouterr().err
    assert (tmp_path / "tiny-probe.safetensors").read_bytes() == b"finished"


def test_an_estimate_for_a_finished_probe_replaces_nothing_and_is_given(
    tmp_path, two_writers, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-probe.safetensors").write_bytes(b"finished")
    assert main([*two_writers, "--estimate"]) == 0
    assert "Altogether about" in capsys.readouterr().err


def test_answers_that_calibrate_left_are_no_sign_of_an_unfinished_probe(tmp_path):
    place = tmp_path / "p.safetensors"
    artifact.save(place, make_probe(FakeResiduals()))
    Path(calibrating.answer_file(str(place))).write_text("left")
    assert not _is_begun(str(place))
    Path(f"{place}.residuals").mkdir()
    assert _is_begun(str(place))


def test_too_few_prompts_are_refused_before_anything_is_read(tmp_path, two_writers, capsys):
    (tmp_path / "prompts.txt").write_text("What is tea?\nWhat is a bridge?\n")
    out = ["--out", str(tmp_path / "p.safetensors")]
    assert main([*two_writers, "--prompts", str(tmp_path / "prompts.txt"), *out]) == 1
    printed = capsys.readouterr().err
    assert "--prompts: a calibration needs at least 8 prompts, got 2: give more" in printed
    assert "reading" not in printed


CHILD = """
import os, signal, sys
from emoguard.cli import main
from emoguard.fit.store import RowStore
from emoguard.fit.workfile import WorkFile
kind, left = sys.argv[1], [int(sys.argv[2])]
write, append = RowStore.write, WorkFile.append
def step(name):
    left[0] -= name.endswith(kind)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
def writing(store, rows, values):
    write(store, rows, values)
    step(store.folder.parent.name)
def appending(file, data):
    append(file, data)
    step(file.path.name)
RowStore.write, WorkFile.append = writing, appending
main(sys.argv[3:])
"""


def test_a_fit_that_is_killed_in_every_part_makes_the_same_probe(tmp_path, texts):
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    stories, neutral = texts
    arguments = ["fit", "--model", model, "--corpus", stories, "--neutral", neutral]
    arguments += ["--tokens", "16", "--skip", "2", "--responses", "8", "--layers", "2"]
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    assert main([*arguments, "--out", str(whole)]) == 0
    again = [*arguments, "--out", str(killed)]

    def kill(kind, after):
        command = [sys.executable, "-c", CHILD, kind, str(after), *again]
        child = subprocess.run(command, check=False, capture_output=True)
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()

    kill(".residuals", 3)
    assert 0 < rows_done(f"{killed}.residuals/corpus-0") < 72
    kill(".answers.jsonl", 5)
    assert rows_done(f"{killed}.residuals/neutral") == 20
    assert len(Path(f"{killed}.answers.jsonl").read_text("utf-8").splitlines()) == 1 + 5
    kill(".readings", 4)
    (readings,) = Path(f"{killed}.readings").iterdir()
    assert rows_done(readings) == 4
    assert not killed.exists()
    kill(".examples.jsonl", 2)
    assert killed.exists()
    assert main(again) == 0
    probe, (calibration,) = artifact.load(killed)
    wanted, (at_once,) = artifact.load(whole)
    for field in ("read", "steer", "centre", "weights"):
        assert np.array_equal(getattr(probe, field), getattr(wanted, field)), field
    assert probe.card == wanted.card
    assert np.array_equal(calibration.location, at_once.location)
    assert sorted(p.name for p in tmp_path.glob("killed.*")) == [
        "killed.html",
        "killed.safetensors",
    ]


def test_a_probe_of_few_texts_or_of_telling_words_is_warned_of_and_its_file_keeps_that(
    tmp_path, texts, capsys
):
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    out = tmp_path / "thin.safetensors"
    stories, neutral = texts
    first, *others = map(json.loads, Path(stories).read_text(encoding="utf-8").splitlines())
    write(Path(stories), [first | {"text": f"{first['text']} happily"}, *others])
    arguments = ["fit", "--model", model, "--corpus", stories, "--neutral", neutral, "--skip", "2"]
    assert main([*arguments, "--tokens", "16", "--responses", "8", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "Caution: few texts (happy 6, calm 6" in printed.err
    assert "Caution: few answers" in printed.err
    assert "(happy 1 of 6; the first at stories.jsonl:1)" in printed.err
    assert "Caution" not in printed.out
    assert artifact.load(out)[0].cautions
    assert main(["show", str(out)]) == 0
    assert "caution " in capsys.readouterr().out


def test_fit_refuses_answers_of_another_model_before_it_reads_a_text(tmp_path, texts, capsys):
    stories, neutral = texts
    model = tiny_gguf.write(tmp_path / "tiny.gguf", "llama")
    out = tmp_path / "p.safetensors"
    answers = Path(f"{out}.answers.jsonl")
    head = {"emoguard": "answers", "bound": {"model": "another"}}
    answers.write_text(json.dumps(head, separators=(",", ":")) + "\n", encoding="utf-8")
    arguments = ["fit", "--model", str(model), "--corpus", stories, "--neutral", neutral]
    arguments += ["--out", str(out), "--tokens", "16", "--skip", "2", "--layers", "1"]
    assert main(arguments) == 1
    assert f"{answers} holds answers of other inputs (model, " in capsys.readouterr().err
    assert answers.exists()
    assert not Path(f"{out}.residuals").exists()


def test_fit_refuses_residuals_of_other_texts(tmp_path, texts, capsys):
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    stories, neutral = texts
    arguments = ["fit", "--model", model, "--neutral", neutral, "--layers", "2", "--keep"]
    arguments += ["--tokens", "16", "--responses", "8", "--out", str(tmp_path / "p.safetensors")]
    assert main([*arguments, "--corpus", stories]) == 0
    capsys.readouterr()
    assert main([*arguments, "--corpus", stories, "--skip", "3"]) == 1
    printed = capsys.readouterr().err
    assert "delete it, or name another output" in printed
    assert "Altogether about" not in printed  # no time is promised that the fit will not keep


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--out": "probe.bin"}, "must end in .safetensors"),
        ({"--model": "none.gguf"}, "none.gguf"),
        ({"--corpus": "none.jsonl"}, "none.jsonl"),
        ({"--layers": "one"}, "--layers takes numbers"),
        ({"--layers": "4"}, "layers must lie in"),
    ],
    ids=str,
)
def test_what_fit_refuses_is_one_sentence(tmp_path, texts, capsys, changes, sentence):
    stories, neutral = texts
    options = {
        "--model": str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama")),
        "--corpus": stories,
        "--neutral": neutral,
        "--out": str(tmp_path / "p.safetensors"),
    }
    arguments = [part for pair in (options | changes).items() for part in pair]
    assert main(["fit", *arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "p.safetensors").exists()


@pytest.mark.real
@pytest.mark.skipif(not DATA.exists(), reason="needs the corpora in ../shared/data")
def test_fit_on_the_real_model_separates_held_out_situations(tmp_path):
    stories = DATA / "stories_b" / "stories.jsonl"
    out = tmp_path / "probe.safetensors"
    neutral = [{"text": t.text} for t in corpora.read(DATA / "stories_b" / "neutral.jsonl")[:30]]
    arguments = ["fit", "--model", str(smollm2_gguf()), "--corpus", str(stories)]
    arguments += ["--neutral", write(tmp_path / "n.jsonl", neutral), "--out", str(out)]
    arguments += ["--layers", "20", "--most", "9", "--responses", "8", "--tokens", "16"]
    assert main(arguments) == 0
    probe, _ = artifact.load(out)
    assert np.mean(list(probe.card["held_out_auroc"].values())) > 0.65
