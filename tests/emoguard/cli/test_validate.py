"""`emoguard validate`, from texts and a tiny model to verdicts, card and pictures."""

import dataclasses
import json
import re

import numpy as np
import pytest
from emoguard_llamacpp import open_residuals
from emoguard_llamacpp.speaker import LlamaSpeaker

from emoguard.cli import main, reading, validate
from emoguard.fit import corpora
from emoguard.fit.responses import Sampling, calibrate, responses
from emoguard.probe import artifact
from emoguard.testing import FakeResiduals, make_probe
from tests.support import tiny_gguf
from tests.support.models import load_llama

PNG = b"\x89PNG"


def write(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)

    def text():
        return " ".join("".join(rng.choice(list("etaoinshr"), 4)) for _ in range(10))

    words = [word for label in corpora.default_labels() for word in label.words[:1]]

    def stories():
        return [{"emotion": w, "topic": f"t{n}", "text": text()} for w in words for n in range(10)]

    people = [
        {"text": text(), "labels": [word]}
        for word in ("joy", "grief", "fear", "anger")
        for _ in range(6)
    ]
    return {
        "--corpus": [write(tmp_path / f / "stories.jsonl", stories()) for f in ("one", "two")],
        "--neutral": [write(tmp_path / "neutral.jsonl", [{"text": text()} for _ in range(20)])],
        "--human": [write(tmp_path / "people.jsonl", people)],
        "--model": [str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))],
    }


def arguments(files, *names):
    return [part for name in names for value in files[name] for part in (name, value)]


def random_probe(model, out):
    """A probe of random directions, calibrated on what the model says."""
    llm = load_llama(model, n_threads=1, n_threads_batch=1)
    door = open_residuals(llm)
    names = [label.name for label in corpora.default_labels()]
    probe = dataclasses.replace(make_probe(door, [*names, "valence"]), axes=("valence",))
    prompts = corpora.neutral_prompts()[:16]
    answers = list(responses(LlamaSpeaker(llm), prompts, Sampling(24)))
    artifact.save(out, probe, [calibrate(door, probe, answers)])


def test_a_probe_of_random_directions_is_not_usable_and_says_so_everywhere(tmp_path, files, capsys):
    probe, judged, card = (str(tmp_path / n) for n in ("p.safetensors", "q.safetensors", "card"))
    random_probe(files["--model"][0], probe)
    check = ["validate", *arguments(files, *files), "--probe", probe, "--out", judged]
    check += ["--card", card, "--responses", "24", "--tokens", "20", "--threads", "1"]
    assert main([*check, "--also", files["--model"][0]]) == 0
    printed = capsys.readouterr().out
    assert "Verdicts" in printed
    assert "On-policy" in printed
    judged_probe, calibrations = artifact.load(judged)
    assert len(calibrations) == 1
    assert set(judged_probe.card["verdicts"]) == set(judged_probe.labels)
    assert set(judged_probe.card["verdicts"].values()) == {"not usable"}
    assert "status" not in judged_probe.card
    assert (
        set(judged_probe.card["file"])
        == set(judged_probe.card["recipe"])
        == set(judged_probe.labels)
    )
    whole = json.loads((tmp_path / "card" / "validation.json").read_text())
    assert whole["name"] == judged_probe.name  # the card goes with the file that holds the verdicts
    assert whole["verdicts"] == judged_probe.card["verdicts"]
    assert whole["on_policy"]["responses"]["neutral"] + whole["on_policy"]["short"] >= 24
    itself = whole["agreements"][0]
    assert itself["gap_95"] == itself["rerun"] == 0.0
    assert itself["flags"] == 1.0
    assert whole["invariance"]["batch"] < 1e-3
    assert whole["human"]["texts"] == 24
    shown = (tmp_path / "card" / "card.md").read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", shown)
    assert len(pictures) == 4
    assert all((tmp_path / "card" / name).read_bytes().startswith(PNG) for name in pictures)
    assert shown.index("## The recipe") < shown.index("## The file")


def test_a_place_that_refuses_the_probe_does_not_cost_the_card(tmp_path, files, capsys):
    probe, card = tmp_path / "p.safetensors", tmp_path / "card"
    random_probe(files["--model"][0], str(probe))
    # The longest name a file may have: that of the part which is renamed to it is longer.
    taken = tmp_path / f"{'x' * 243}.safetensors"
    check = ["validate", *arguments(files, "--model", "--corpus", "--neutral")]
    check += ["--probe", str(probe), "--out", str(taken), "--card", str(card)]
    assert main([*check, "--no-on-policy", "--threads", "1"]) != 0
    assert "cannot be written" in capsys.readouterr().err
    assert "## Verdicts" in (card / "card.md").read_text()


def test_a_recipe_is_judged_without_a_probe_and_reads_stored_residuals_again(
    tmp_path, files, capsys
):
    options = arguments(files, "--model", "--corpus", "--neutral")
    card = tmp_path / "card"
    assert main(["validate", *options, "--card", str(card), "--threads", "1"]) == 0
    first = (card / "validation.json").read_text()
    rows = (card / "residuals" / "corpus-0" / "rows.npy").stat().st_mtime_ns
    assert main(["validate", *options, "--card", str(card), "--threads", "1"]) == 0
    assert (card / "validation.json").read_text() == first
    assert (card / "residuals" / "corpus-0" / "rows.npy").stat().st_mtime_ns == rows
    assert json.loads(first)["file"] == {}


def test_a_probe_is_judged_by_the_labels_it_was_fitted_with_in_its_order():
    labels = {
        "dim": {"words": ["sad"], "valence": -1},
        "bright": {"words": ["happy"], "valence": 1},
    }
    probe = make_probe(FakeResiduals(), ("dim", "bright", "valence"))
    recipe = {"labels": dict(sorted(labels.items()))}  # as a file brings it back
    probe = dataclasses.replace(probe, axes=("valence",), recipe=recipe)
    recorded = validate._labels(None, probe)
    assert [(label.name, label.valence) for label in recorded] == [("dim", -1), ("bright", 1)]


def test_the_packages_own_corpora_have_names_of_their_own_beside_others(tmp_path):
    other = str(tmp_path / "stories.jsonl")
    named = reading._named([*map(str, corpora.own()), other])
    assert list(named) == ["own stories", "own letters", "stories"]


def test_without_corpora_the_packages_own_are_read_and_tested_on_each_other(tmp_path, monkeypatch):
    """Of each a few texts: what is looked at is which are read."""
    read = []

    def some(path, labels=()):
        read.append(path)
        kept = whole(path, labels)
        return [text for text in kept if text.topic in {t.topic for t in kept[:: len(kept) // 10]}]

    whole = corpora.read
    monkeypatch.setattr(corpora, "read", some)
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    card = tmp_path / "card"
    options = ["--model", model, "--card", str(card), "--most", "12", "--threads", "1"]
    assert main(["validate", *options]) == 0
    assert sorted(read) == sorted(map(str, (*corpora.own(), *corpora.own_neutrals())))
    validation = json.loads((card / "validation.json").read_text())
    assert set(validation["each_left_out"]) == {"own stories", "own letters"}
    assert "untested" not in validation["verdicts"].values()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--out": ["q.bin"]}, "must end in .safetensors"),
        ({"--out": ["q.safetensors"]}, "name it with --probe"),
        ({"--model": ["none.gguf"]}, "none.gguf"),
        ({"--labels": ["none.json"]}, "labels none.json cannot be read"),
        ({"--families": ["none.json"]}, "families none.json cannot be read"),
        ({"--corpus": ["none.jsonl"]}, "none.jsonl"),
        ({"--human": ["none.tsv"]}, "none.tsv"),
    ],
    ids=str,
)
def test_what_validate_refuses_is_one_sentence(tmp_path, files, capsys, changes, sentence):
    chosen = {k: v for k, v in files.items() if k != "--human"} | changes
    assert main(["validate", *arguments(chosen, *chosen), "--card", str(tmp_path / "c")]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


@pytest.mark.parametrize("runtime", ["", "--runtime transformers "])
def test_a_probe_without_a_calibration_of_the_model_is_refused_before_anything_is_read(
    tmp_path, files, capsys, runtime
):
    probe, card = tmp_path / "p.safetensors", tmp_path / "card"
    random_probe(files["--model"][0], probe)
    artifact.save(probe, artifact.load(probe)[0], [])
    wanted = ["validate", *arguments(files, *files), "--probe", str(probe), "--card", str(card)]
    assert main([*wanted, "--threads", "1", *runtime.split()]) == 1
    command = f"emoguard calibrate --model {files['--model'][0]} {runtime}--probe {probe} --out "
    assert command in capsys.readouterr().err
    assert not card.exists()
