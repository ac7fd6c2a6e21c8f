"""`emoguard corpus`, from a model to a corpus that `emoguard fit` reads."""

import json

import pytest

from emoguard import extras
from emoguard.cli import corpus, main
from emoguard.fit import corpora
from tests.support import tiny_gguf
from tests.support.models import gemma_gguf, smollm2_gguf


@pytest.fixture
def topics(tmp_path):
    path = tmp_path / "topics.txt"
    path.write_text("a train\na garden\n")
    return str(path)


def scripted(monkeypatch, words=50):
    """Answer in the model's place: a random tiny one writes nothing that could be accepted."""
    requests = []

    def answer(speaker, prompt):
        requests.append(prompt)
        return " ".join(f"w{prompt.seed}x{n}" for n in range(words)) + "."

    monkeypatch.setattr(corpus, "answer", answer)
    return requests


def writing(model, out, *more):
    return ["corpus", "write", "--model", model, "--out", str(out), *more]


def test_a_corpus_is_written_that_fit_can_read(tmp_path, topics, monkeypatch, capsys):
    requests = scripted(monkeypatch)
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    out = tmp_path / "c.jsonl"
    arguments = writing(model, out, "--topics", topics, "--each", "2")
    assert main(arguments) == 0
    assert "48 of 48 texts. Rejected attempts: 0." in capsys.readouterr().out
    texts = corpora.read(out, corpora.default_labels())
    assert len(texts) == len(requests) == 48
    assert {text.topic for text in texts} == {"a train", "a garden"}
    assert {json.loads(line)["person"] for line in out.read_text().splitlines()} == {
        "first",
        "third",
    }
    assert len({prompt.seed for prompt in requests}) == 48
    whole = out.read_bytes()
    out.unlink()
    assert main(arguments) == 0
    assert len(requests) == 48, "what was written is written again"
    assert out.read_bytes() == whole
    assert main([*arguments, "--temperature", "0.5"]) == 1
    assert "of other inputs" in capsys.readouterr().err


def test_labels_of_ones_own_are_asked_for_and_never_named(tmp_path, topics, monkeypatch, capsys):
    value = tmp_path / "labels.json"
    value.write_text('{"bored": {"words": ["bored", "w0x3"], "valence": -1}}', encoding="utf-8")
    requests = scripted(monkeypatch)
    out = tmp_path / "c.jsonl"
    arguments = ["corpus", "write", "--out", str(out), "--labels", str(value), "--each", "1"]
    arguments += ["--model", str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))]
    assert main([*arguments, "--topics", topics, "--tries", "2"]) == 0
    assert "feels bored" in requests[0].text
    assert "1 names an emotion" in capsys.readouterr().out  # w0x3, in the text of seed 0
    assert [text.label for text in corpora.read(out, corpora.read_labels(value))] == ["bored"] * 2


def test_texts_that_never_come_are_given_up_and_counted(tmp_path, topics, monkeypatch, capsys):
    scripted(monkeypatch, words=5)
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    arguments = ["--each", "1", "--topics", topics, "--tries", "2"]
    assert main(writing(model, tmp_path / "c.jsonl", *arguments)) == 0
    text = capsys.readouterr().out
    assert "0 of 24 texts, 24 given up. Rejected attempts: 48 (48 too short)." in text


def test_answers_in_a_voice_are_written_with_neutral_ones_beside_them(
    tmp_path, topics, monkeypatch, capsys
):
    requests = []

    def answer(speaker, prompt):
        requests.append(prompt)
        voice = "morose " if "sad" in prompt.earlier[0][1] else "plain "
        return voice + " ".join(f"w{prompt.seed}x{n}" for n in range(50)) + "."

    monkeypatch.setattr(corpus, "answer", answer)
    voices, labels = tmp_path / "voices.jsonl", tmp_path / "labels.json"
    voices.write_text(
        "".join(
            json.dumps({"emotion": "sad", "topic": "rain", "text": f"sad morose {n}"}) + "\n"
            for n in range(8)
        )
    )
    labels.write_text('{"sad": {"words": ["sad"], "valence": -1}}')
    out = tmp_path / "c.jsonl"
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    arguments = ["corpus", "write", "--model", model]
    arguments += ["--out", str(out), "--answers", "--topics", topics, "--each", "2"]
    assert main([*arguments, "--labels", str(labels), "--voices", str(voices)]) == 0
    printed = capsys.readouterr().out
    assert "8 of 8 texts" in printed
    assert "sad          0." in printed or "sad          1." in printed
    texts = corpora.read(out, corpora.read_labels(labels))
    assert [text.label for text in texts] == ["sad"] * 4
    assert {text.topic for text in texts} == {"a train", "a garden"}
    neutral = corpora.read(f"{out}.neutral.jsonl")
    assert [text.label for text in neutral] == [""] * 4
    assert all(prompt.text in {"a train", "a garden"} for prompt in requests)


def test_libraries_that_the_last_lines_take_are_missed_before_a_text_is_written(
    tmp_path, monkeypatch, capsys
):
    requests = scripted(monkeypatch)
    find_spec = extras.find_spec
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == "sklearn" else find_spec(name)
    )
    model = str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    assert main(writing(model, tmp_path / "c.jsonl", "--answers")) == 1
    assert "needs sklearn: pip install" in capsys.readouterr().err
    assert not requests


def test_own_topics_are_those_of_the_own_corpus():
    assert len(corpus.own_topics()) == 24
    assert len(set(corpus.own_questions())) == corpus.QUESTIONS


def test_labels_by_name_are_written_for(tmp_path, topics, monkeypatch):
    requests = scripted(monkeypatch)
    out = tmp_path / "c.jsonl"
    arguments = ["corpus", "write", "--out", str(out), "--labels", "sarcastic,sincere"]
    arguments += ["--model", str(tiny_gguf.write(tmp_path / "tiny.gguf", "llama")), "--each", "1"]
    assert main([*arguments, "--topics", topics]) == 0
    assert "feels sarcastic" in requests[0].text
    labels = corpora.read_labels("sarcastic,sincere")
    assert [t.label for t in corpora.read(out, labels)] == ["sarcastic", "sincere"] * 2


def test_check_finds_nothing_wrong_with_the_packages_own(capsys):
    arguments = ["corpus", "check", *map(str, corpora.own())]
    for path in corpora.own_neutrals():
        arguments += ["--neutral", str(path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "Nothing is wrong.\n"


def test_check_names_file_and_line_and_fails_where_fit_would(tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    lines = corpora.own_letters().read_text("utf-8").splitlines()
    record = json.loads(lines[0])
    lines[0] = json.dumps(record | {"text": f"{record['text']} Happy days."})
    path.write_text("\n".join(lines), "utf-8")
    assert main(["corpus", "check", str(path), str(corpora.own_stories())]) == 0
    printed = capsys.readouterr().out
    assert f"{path}:1: caution: leak: 1 of 24 texts of happy hold a word of that label" in printed
    assert "0 to mend, 1 to know of." in printed
    path.write_text("\n".join([*lines, '{"emotion": "sad"}']), "utf-8")
    assert main(["corpus", "check", str(path)]) == 1
    printed = capsys.readouterr().out
    assert f"{path}:289: wanted a JSON object with emotion, topic and text" in printed
    assert "in one corpus alone: the verdict will be untested" in printed


def test_check_wants_something_to_check(capsys):
    assert main(["corpus", "check"]) == 2
    assert "name the files to check" in capsys.readouterr().err


def test_check_looks_at_labels_and_prompts(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("".join(f"How {n % 8}?\n" for n in range(9)))
    (tmp_path / "l.json").write_text('{"a": {"words": ["x"], "valence": 3}}')
    assert main(["corpus", "check", "--prompts", str(tmp_path / "p.txt")]) == 0
    assert "caution: 1 prompts repeat others" in capsys.readouterr().out
    assert main(["corpus", "check", "--labels", str(tmp_path / "l.json")]) == 1
    assert "valence must be 1 or -1, got 3" in capsys.readouterr().err
    (tmp_path / "l.json").write_text('{"a": {"words": ["x"], "valence": 1}}')
    assert main(["corpus", "check", "--labels", str(tmp_path / "l.json")]) == 1
    assert "l.json: a label is told apart from others" in capsys.readouterr().out
    assert main(["corpus", "check", "--labels", "a,b"]) == 0


@pytest.mark.real
def test_a_model_without_chat_template_is_refused(tmp_path, capsys):
    arguments = [
        "corpus",
        "write",
        "--model",
        str(gemma_gguf()),
        "--out",
        str(tmp_path / "c.jsonl"),
    ]
    assert main(arguments) == 1
    assert "has no chat template" in capsys.readouterr().err


@pytest.mark.real
def test_a_real_model_writes_texts_about_the_topic(tmp_path, topics):
    out = tmp_path / "c.jsonl"
    arguments = [
        "corpus",
        "write",
        "--model",
        str(smollm2_gguf()),
        "--out",
        str(out),
        "--each",
        "1",
    ]
    (tmp_path / "topics.txt").write_text("a train\n")
    assert main([*arguments, "--topics", topics, "--tries", "2"]) == 0
    texts = corpora.read(out)
    assert len(texts) >= 3
    assert sum("train" in text.text.lower() for text in texts) > len(texts) / 3
