"""A probe of few texts, of layers at the edge or of labels that hardly differ says so."""

import numpy as np
import pytest

from emoguard.fit.cautions import FEW, cautions
from emoguard.probe import artifact
from tests.emoguard.fit.test_recipe import corpus, probe_of

NAMES = ("happy", "sad")
GOOD = np.full((29, 2), 0.9)
INSIDE = (14, 16)


def texts(count):
    return [[name for name in NAMES for _ in range(count)]]


def told(count=FEW, scores=GOOD, layers=INSIDE, *, are_named=False):
    return cautions(texts(count), NAMES, scores, layers, are_named=are_named)


def test_enough_texts_inside_layers_and_labels_apart_are_no_reason_for_doubt():
    assert told() == []


def test_few_texts_are_counted_by_label_over_all_corpora():
    (sentence,) = told(12)
    assert "happy 12, sad 12" in sentence
    (sentence,) = cautions([*texts(FEW), ["sad"] * 5], ("mine",), GOOD, INSIDE,
                           are_named=False)  # fmt: skip
    assert "mine 0" in sentence
    half = texts(FEW // 2)
    assert cautions(half * 2, NAMES, GOOD, INSIDE, are_named=False) == []


@pytest.mark.parametrize("layers", [(1, 2, 3, 4), (20, 28), (1,)])
def test_chosen_layers_at_the_edge_are_told(layers):
    (sentence,) = told(layers=layers)
    assert f"layers {', '.join(map(str, layers))} were chosen, at the edge of 1 to 28" in sentence
    assert told(layers=layers, are_named=True) == []


def test_where_every_layer_is_taken_none_was_chosen():
    assert told(scores=GOOD[:5], layers=(1, 2, 3, 4)) == []


def test_labels_that_are_hardly_told_apart_are_told():
    (sentence,) = told(scores=np.full((29, 2), 0.55))
    assert "mean AUROC 0.55" in sentence
    assert told(scores=np.full((29, 2), np.nan)) == []


def test_a_probe_file_keeps_what_was_told_of_it(tmp_path):
    probe = probe_of([corpus(topics=3, per_cell=4)])
    assert any("happy 12, sad 12" in sentence for sentence in probe.cautions)
    artifact.save(tmp_path / "p.safetensors", probe)
    assert artifact.load(tmp_path / "p.safetensors")[0].cautions == probe.cautions


def test_a_probe_of_enough_texts_has_no_word_of_few():
    cautions = probe_of([corpus(topics=6, per_cell=5)]).cautions
    assert not any("few texts" in sentence for sentence in cautions)
