"""`emoguard fit`, from corpus to a probe file that reads."""

import json

import numpy as np
import pytest

import emoguard
from emoguard import Guard, artifact
from emoguard.cli import main
from emoguard.fit import corpora
from tests import tiny_gguf
from tests.models import DATA, load_llama, smollm2_gguf


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


def test_fit_writes_a_probe_that_attaches_to_its_model(tmp_path, texts, capsys):
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    other = str(tiny_gguf.write(tmp_path / "other.gguf", "llama", seed=1))
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
    assert probe.card["status"].startswith("first fit")
    llm = load_llama(model)
    with emoguard.attach(llm, Guard.load(out)) as watch:
        llm.create_completion("toast is heat", max_tokens=4, temperature=0.0)
        assert watch.reports[-1].status == "scored"


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
