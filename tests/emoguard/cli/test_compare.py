"""`emoguard compare`, from two models and texts to numbers, on tiny models and on a real one."""

import json
import shutil

import numpy as np
import pytest

from emoguard.cli import main
from emoguard.fit import corpora
from tests.support import models, tiny_gguf

LABELS = {
    "happy": {"words": ["happy"], "valence": 1},
    "calm": {"words": ["calm"], "valence": 1},
    "sad": {"words": ["sad"], "valence": -1},
}


def write(path, records):
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def texts(tmp_path):
    """Options that name small files of letters without meaning."""
    rng = np.random.default_rng(0)

    def text():
        return " ".join("".join(rng.choice(list("etaoinshr"), 4)) for _ in range(10))

    stories = [
        {"emotion": label, "topic": f"t{n % 8}", "text": text()} for label in LABELS
        for n in range(16)
    ]  # fmt: skip
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    return {
        "--corpus": write(tmp_path / "stories.jsonl", stories),
        "--neutral": write(tmp_path / "neutral.jsonl", [{"text": text()} for _ in range(16)]),
        "--labels": str(tmp_path / "labels.json"),
        "--residuals": str(tmp_path / "kept"),
        "--skip": "2",
    }


def run(a, b, options, *more):
    values = [part for option in options.items() for part in option]
    return main(["compare", str(a), str(b), *values, *more])


def compared(capsys, *arguments):
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_copy_differs_in_nothing_and_other_weights_in_their_directions(tmp_path, texts, capsys):
    one = tiny_gguf.write(tmp_path / "one.gguf", "llama")
    copy = shutil.copy(one, tmp_path / "copy.gguf")
    other = tiny_gguf.write(tmp_path / "other.gguf", "llama", seed=1)
    same = compared(capsys, one, copy, texts)
    assert same["texts"] == 48
    assert same["topics"] == 8
    assert same["macro"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert same["cosine"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    apart = compared(capsys, one, other, texts)
    assert apart["cosine"]["high"] < 0.9
    assert apart["cosine"]["value"] < apart["cosine_chance"]
    for actual in (same, apart):
        assert set(actual["ceilings"]) == {*LABELS, "valence"}
        assert all(0 <= each <= 1 for each in (actual["ceiling"], *actual["ceiling_by_layer"]))


def test_the_table_names_both_models_every_label_and_the_reference_columns(tmp_path, texts, capsys):
    one = tiny_gguf.write(tmp_path / "one.gguf", "llama")
    other = tiny_gguf.write(tmp_path / "other.gguf", "llama", seed=1)
    picture = tmp_path / "p.png"
    assert run(one, other, texts, "--layer", "2", "--png", str(picture)) == 0
    shown = capsys.readouterr().out
    names = ("one.gguf", "other.gguf", *LABELS, "valence")
    for part in (*names, "word counts", "chance", "ceiling", "layers 2"):
        assert part in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_residuals_are_kept_and_never_taken_from_another_file(tmp_path, texts, capsys):
    one = tiny_gguf.write(tmp_path / "one.gguf", "llama")
    first = compared(capsys, one, one, texts)
    kept = list((tmp_path / "kept").glob("*/*/rows.npy"))
    assert len(kept) == 2  # one file, although it stands on both sides
    times = [path.stat().st_mtime_ns for path in kept]
    assert compared(capsys, one, one, texts) == first
    assert [path.stat().st_mtime_ns for path in kept] == times
    compared(capsys, one, shutil.copy(one, tmp_path / "copy.gguf"), texts)
    assert len(list((tmp_path / "kept").glob("*/*/rows.npy"))) == 4


def test_refusals_of_compare_are_one_sentence_before_anything_is_read(tmp_path, texts, capsys):
    one = tiny_gguf.write(tmp_path / "one.gguf", "llama")
    other = tiny_gguf.write(tmp_path / "other.gguf", "qwen3")
    longer = tiny_gguf.write(tmp_path / "longer.gguf", "llama", blocks=6)
    lacking = write(tmp_path / "few.jsonl", [{"emotion": "sad", "topic": "", "text": "a b c d e"}])
    few = write(
        tmp_path / "two.jsonl",
        [{"emotion": e, "topic": "t", "text": f"a b c d {e} {n}"} for e in LABELS for n in (0, 1)],
    )
    apart = write(
        tmp_path / "apart.jsonl",
        [
            {"emotion": e, "topic": f"{e}{0 if e == 'sad' else n}", "text": f"a b c {e} {n}"}
            for e in LABELS
            for n in range(12)
        ],
    )
    letters = write(
        tmp_path / "letters.jsonl",
        [
            {
                "emotion": e,
                "topic": f"t{n % 6}",
                "text": f"{'abc'[m]} {' '.join('abcdefghijkl'[n:])}",
            }
            for m, e in enumerate(LABELS)
            for n in range(12)
        ],
    )
    for (a, b), options, shown in (
        ((one, one), texts | {"--corpus": letters}, "taken from words that occur in at least two"),
        ((one, one), texts | {"--layer": "4"}, "layers must lie in [0, 3], got [4]: give others"),
        ((one, one), texts | {"--corpus": few}, "each label needs at least 10 texts"),
        ((one, one), texts | {"--corpus": apart}, "are all of topics that are held out together"),
        ((one, other), texts, "only models of one family can be compared, got tiny random llama"),
        ((one, longer), texts, "6 layers of width 64"),
        ((one, tmp_path / "none.gguf"), texts, "there is no model at"),
        ((one, one), texts | {"--corpus": lacking}, "has no texts of happy (happy); calm (calm)"),
        ((one, one), texts | {"--labels": "none.json"}, "labels none.json cannot be read"),
        ((one, one), texts | {"--png": "p.jpg"}, "--png must end in .png"),
    ):
        assert run(a, b, options) == 1
        error = capsys.readouterr().err
        assert shown in error
        assert "Traceback" not in error
    assert not (tmp_path / "kept").exists()


def test_different_tokenisers_of_one_family_are_refused(tmp_path, texts, capsys, monkeypatch):
    one = tiny_gguf.write(tmp_path / "one.gguf", "llama")
    pieces = list(tiny_gguf.PIECES)
    monkeypatch.setattr(tiny_gguf, "PIECES", (*pieces[:-1], "ta"))
    other = tiny_gguf.write(tmp_path / "other.gguf", "llama")
    assert run(one, other, texts) == 1
    assert "have different tokenisers: '" in capsys.readouterr().err


@pytest.mark.real
def test_noise_in_one_block_of_a_real_model_is_found_in_its_place_and_order(tmp_path, capsys):
    """Block 3 of 6 of SmolLM2-Instruct gets noise of .1 and .5 of its weights' deviation."""
    plain = shortened(tmp_path / "plain", noise=0.0)
    texts = real_texts(tmp_path)
    results = {
        noise: compared(capsys, plain, shortened(tmp_path / f"noisy {noise}", noise), texts)
        for noise in (0.0, 0.1, 0.5)
    }
    same = results[0.0]
    assert all(each == {"value": 1.0, "low": 1.0, "high": 1.0} for each in same["by_layer"])
    for each in (same["macro"], *same["separation"].values()):
        assert each["difference"]["low"] <= 0 <= each["difference"]["high"]
    for noise in (0.1, 0.5):
        layers = [each["value"] for each in results[noise]["by_layer"]]
        assert layers[:3] == [1.0, 1.0, 1.0]
        assert results[noise]["by_layer"][3]["high"] < 1
        assert results[noise]["cosine"]["value"] > results[noise]["cosine_chance"]
    assert results[0.5]["by_layer"][3]["high"] < results[0.1]["by_layer"][3]["low"]
    assert results[0.5]["overlap"]["high"] < results[0.1]["overlap"]["low"] <= 1


def shortened(folder, noise, blocks=6):
    """Return a folder with the first blocks of SmolLM2-Instruct, noise in the weights of block 3.

    The noise of each matrix has `noise` times the standard deviation of its weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = models.hf_copy(models.smollm2_gguf())
    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers = blocks
    model = AutoModelForCausalLM.from_pretrained(source, config=config)
    generator = torch.Generator().manual_seed(0)
    for weight in model.model.layers[3].parameters():
        if weight.ndim == 2:
            drawn = torch.randn(weight.shape, generator=generator)
            weight.data += noise * weight.std() * drawn
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def real_texts(folder):
    """Options that name twelve stories of each of three labels, a sentence or two long."""
    labels = [label for label in corpora.default_labels() if label.name in LABELS]
    stories = corpora.balanced(corpora.read(corpora.own_stories(), labels), 12)
    neutral = corpora.read(corpora.own_neutral())[:16]

    def short(text):
        return " ".join(text.split()[:24])

    (folder / "labels.json").write_text(json.dumps(LABELS))
    records = [{"emotion": t.label, "topic": t.topic, "text": short(t.text)} for t in stories]
    return {
        "--corpus": write(folder / "stories.jsonl", records),
        "--neutral": write(folder / "neutral.jsonl", [{"text": short(t.text)} for t in neutral]),
        "--labels": str(folder / "labels.json"),
        "--residuals": str(folder / "kept"),
        "--skip": "8",
        "--layer": "3",
    }
