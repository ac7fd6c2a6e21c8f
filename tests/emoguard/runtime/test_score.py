"""Texts that nobody generated, scored through the offline door."""

import logging

import numpy as np
import pytest

import emoguard
from emoguard import EmoGuardError
from emoguard.probe import artifact
from emoguard.runtime.attention import sink_length
from emoguard.testing import FakeResiduals, make_calibration, make_probe
from tests.support.plugin import fake_model

DOOR = FakeResiduals()
PROBE = make_probe(DOOR, ("happy", "sad", "calm"))
CALIBRATION = make_calibration(PROBE, DOOR.identity)
TEXTS = ["a b c d", "the the cat", "one two three four five six seven", "x y"]


@pytest.fixture
def model(tmp_path, monkeypatch):
    return fake_model(tmp_path, monkeypatch)


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "mine.safetensors"
    artifact.save(path, PROBE, [CALIBRATION])
    return path


def live(text):
    """z of every token behind the attention sink, as a report averages it."""
    ids = DOOR.tokenize(text)
    rows = PROBE.fold(CALIBRATION).read(DOOR.residuals(ids, PROBE.layers))
    return rows[sink_length(ids) :].mean(axis=0)


def test_a_score_is_the_mean_of_live_rows_behind_the_first_position(model, probe):
    scores = emoguard.score(model, TEXTS, probe)
    assert scores.labels == PROBE.labels
    assert scores.calibrated
    np.testing.assert_allclose(scores.z, [live(text) for text in TEXTS], atol=1e-4)


def test_the_first_position_and_its_repetitions_are_left_out(model, probe, monkeypatch):
    ids = {"a": [1, 1, 1, 7, 8], "b": [1, 7, 8]}
    monkeypatch.setattr(FakeResiduals, "tokenize", lambda _, text, **__: ids.get(text, [1, 2]))
    rows = {
        text: PROBE.fold(CALIBRATION).read(DOOR.residuals(tokens, PROBE.layers))
        for text, tokens in ids.items()
    }
    scores = emoguard.score(model, ["a", "b"], probe)
    np.testing.assert_allclose(scores.z[0], rows["a"][3:].mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(scores.z[1], rows["b"][1:].mean(axis=0), atol=1e-4)


def test_labels_are_selected_and_ordered(model, probe):
    whole = emoguard.score(model, TEXTS, probe)
    some = emoguard.score(model, TEXTS, probe, labels=["calm", "happy"])
    np.testing.assert_allclose(some.z, whole.z[:, [2, 0]], atol=1e-5)
    np.testing.assert_array_equal(some["calm"], some.z[:, 0])
    assert some.as_dicts()[1] == {"calm": some.z[1, 0], "happy": some.z[1, 1]}
    with pytest.raises(KeyError, match="unknown label sad: there are calm, happy"):
        some["sad"]


def test_a_shipped_probe_is_found_or_named(model):
    scores = emoguard.score(model, TEXTS)
    np.testing.assert_array_equal(scores.z, emoguard.score(model, TEXTS, "fits").z)


def test_without_a_calibration_scores_are_projections_and_that_is_logged(model, tmp_path, caplog):
    path = tmp_path / "raw.safetensors"
    artifact.save(path, PROBE, [])
    with caplog.at_level(logging.WARNING, "emoguard"):
        scores = emoguard.score(model, TEXTS, path)
    assert not scores.calibrated
    assert "is not calibrated for fake" in caplog.text


def test_no_text_gives_no_row(model, probe):
    assert emoguard.score(model, iter(()), probe).z.shape == (0, 3)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("a b c", r'texts: wanted a list of texts, got "a b c": write \[text\]'),
        (None, "texts: wanted a list of texts, got null"),
        (["a b", 7], "texts: wanted a list of texts, got 7"),
        (["a b", ""], r"texts\[1\]: wanted a token behind the first one, got ''"),
    ],
)
def test_texts_that_cannot_be_scored_are_named(model, probe, texts, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        emoguard.score(model, texts, probe)


def test_a_probe_of_another_model_is_refused(model, tmp_path):
    other = FakeResiduals(type(DOOR.identity)("wide", "fake", 6, 48, "F32", "1" * 64))
    path = tmp_path / "other.safetensors"
    artifact.save(path, make_probe(other), [])
    with pytest.raises(EmoGuardError, match="width 48"):
        emoguard.score(model, TEXTS, path)


def test_options_of_the_plugin_reach_it_and_others_are_named(model, probe):
    emoguard.score(model, TEXTS, probe, backend="native")
    with pytest.raises(EmoGuardError, match=r"backnd: unknown option .*did you mean backend"):
        emoguard.score(model, TEXTS, probe, backnd="native")
