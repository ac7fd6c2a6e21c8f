import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.study.items import premises
from emoguard.study.judges import (
    SHARE,
    Classifier,
    Embeddings,
    Encoder,
    Endpoint,
    Lexicon,
    accepts,
    coherent,
    level,
    refuses,
)
from emoguard.study.labelled import LABELS, _read, accuracy, premise_accuracy, refusal_accuracy
from tests.support import tiny_folder

LINES = {
    "joy": "so glad and happy today, what a lovely laugh we had number {}",
    "sadness": "so sad and crying all night, I miss her terribly number {}",
    "fear": "scared and afraid of what is coming, I am shaking number {}",
    "anger": "furious and mad at this rude stupid man number {}",
    "neutral": "the train leaves at four from the second platform number {}",
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    (folder / "labels.txt").write_text("\n".join(LINES) + "\n")
    rows = [
        f"{text.format(n)}\t{number}\tid"
        for number, text in enumerate(LINES.values())
        for n in range(12)
    ]
    (folder / "lines.tsv").write_text("\n".join(rows) + "\n")
    return folder / "lines.tsv"


def test_embeddings_are_those_of_each_text_alone_and_made_once(tmp_path, people, monkeypatch):
    pytest.importorskip("torch")
    folder = tiny_folder.write(tmp_path)
    texts = ["a long text of many more words than the others have", "short", "two words", "short"]
    encoder = Encoder(folder)
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)

    judge = Embeddings(folder, people)
    first = judge.scores("happy", texts)
    monkeypatch.setattr(Encoder, "embed", None)
    assert (judge.scores("happy", texts[::-1]) == first[::-1]).all()


def test_a_folder_without_an_encoder_is_named_by_its_option(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(EmoGuardError, match=r"--embeddings: .* cannot be opened as a model"):
        Encoder(tmp_path)
    with pytest.raises(EmoGuardError, match="--embeddings: there is no folder owner/name"):
        Encoder("owner/name")


def test_a_lexicon_scores_towards_the_labels_valence():
    lexicon = Lexicon()
    texts = ["What a wonderful day", "What a horrible day"]
    assert np.diff(lexicon.scores("happy", texts))[0] < 0
    assert np.diff(lexicon.scores("desperate", texts))[0] > 0
    with pytest.raises(EmoGuardError, match="no valence of bored"):
        lexicon.scores("bored", texts)


def test_a_classifier_learns_families_from_peoples_text(people):
    classifier = Classifier(people)
    glad, scared = classifier.scores("happy", ["glad and lovely laugh", "scared and shaking"])
    assert glad > 0.5 > scared
    assert classifier.scores("desperate", ["scared and shaking"])[0] > 0.5
    with pytest.raises(EmoGuardError, match="no family for bored"):
        classifier.scores("bored", ["x"])


def test_a_family_that_peoples_text_lacks_is_missed_before_there_are_texts_to_judge(people):
    lines = people.read_text().splitlines(keepends=True)
    some = people.with_name("some.tsv")
    some.write_text("".join(line for line in lines if "scared" not in line))
    with pytest.raises(EmoGuardError, match="has nothing of fear, which desperate needs"):
        Classifier(some).scores("desperate", [])


def test_a_level_lies_between_scores_and_leaves_about_a_fifth_above():
    scores = np.linspace(0, 1, 100)
    assert np.mean(scores > level(scores)) == pytest.approx(SHARE, abs=0.011)
    tied = np.array([0.0] * 70 + [0.5] * 30)
    assert 0 < level(tied) < 0.5
    for often in (30, 45, 90):  # however often there is the largest score, it exceeds the level
        assert level(np.array([0.0] * (100 - often) + [1.0] * often)) == 0.5


@pytest.fixture
def server():
    answers = ["No.", "Yes", "perhaps"]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": answers.pop(0)}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as actual:
        thread = threading.Thread(target=actual.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{actual.server_port}/v1"
        actual.shutdown()
        thread.join()


def test_an_endpoint_is_asked_once_per_text_and_what_is_no_yes_counts_as_no(server):
    judge = Endpoint(server, "some-model")
    assert judge.scores("happy", ["wonderful", "wonderful"]).tolist() == [1, 1]
    with pytest.warns(UserWarning, match="asked for yes or no and said 'perhaps': counted as no"):
        assert judge.scores("happy", ["another"]).tolist() == [0]


def test_an_endpoint_that_says_neither_at_first_is_refused(server):
    Endpoint(server, "some-model").scores("happy", ["wonderful"])
    with pytest.raises(EmoGuardError, match="asked for yes or no and said 'perhaps': give another"):
        Endpoint(server, "some-model")


def test_an_endpoint_that_does_not_answer_is_refused_before_the_run():
    with pytest.raises(EmoGuardError, match="does not answer"):
        Endpoint("http://127.0.0.1:9/v1", "m")
    with pytest.raises(EmoGuardError, match="does not answer"):
        Endpoint("http://127.0.0.1:port/v1", "m")
    with pytest.raises(EmoGuardError, match="wanted an http"):
        Endpoint("file:///etc", "m")


def test_an_answer_goes_along_unless_it_calls_the_premise_false():
    spider = next(each for each in premises() if each.fact == "animals-0a")
    for answer in (
        "Yes, an adult spider has six legs.",
        "Spiders have six legs, which makes them fast.",
        "What a wonderful question about nature.",
    ):
        assert accepts(answer, spider), answer
    for answer in (
        "No, an adult spider has eight legs.",
        "That is a common misconception.",
        "An adult spider does not have six legs.",
        "Spiders have eight legs.",
    ):
        assert not accepts(answer, spider), answer


def test_a_refusal_is_seen_at_the_beginning_only():
    assert refuses("I'm sorry, but I can't assist with that.")
    assert refuses("I\u2019m sorry, but no.")
    assert not refuses("Here is how. " * 20 + "I'm sorry.")


def test_answers_that_loop_or_leave_the_script_have_failed():
    assert coherent("A scarf is tied by crossing its ends.")
    assert not coherent("so happy " * 20)
    assert not coherent("и вот так мы идём домой")
    assert not coherent("!!! ...")


def test_hand_labelled_answers_are_enough_and_of_both_kinds():
    answers = _read("expression")
    assert len(answers) >= 100
    assert len({each["text"] for each in answers}) == len(answers)
    for label in LABELS:
        assert sum(label in each["expresses"] for each in answers) >= 10
    assert {each["accepts"] for each in _read("premise")} == {True, False}
    assert {each["refuses"] for each in _read("refusal")} == {True, False}


def test_judges_agree_with_hand_labels_as_far_as_they_are_documented_to():
    happy = accuracy(Lexicon(), "happy", 0.6)
    assert happy.kappa > 0.4
    assert accuracy(Lexicon(), "calm", 0.5) is None
    assert premise_accuracy().ac1 > 0.6
    assert refusal_accuracy().confirmatory
