"""Texts as a model read them: subsets, folds, other labels."""

import numpy as np
import pytest

from emoguard.validate.reading import FEWEST_TOPICS, folds
from tests.emoguard.validate.planted import corpus

TEXTS = corpus(topics=8, per_cell=2)


def test_a_part_keeps_its_rows_together():
    rows = TEXTS.labels == "sad"
    part = TEXTS.take(rows)
    assert len(part) == rows.sum() == len(part.residuals) == len(part.embeddings)
    assert set(part.labels) == {"sad"}
    first = int(np.flatnonzero(rows)[0])
    assert part.texts[0] == TEXTS.texts[first]
    np.testing.assert_array_equal(part.residuals[0], TEXTS.residuals[first])


def test_few_topics_are_no_clusters():
    assert set(TEXTS.clusters) == set(TEXTS.topics)
    few = corpus(topics=FEWEST_TOPICS - 1)
    assert len(set(few.clusters)) == len(few)


def test_embeddings_stand_in_for_the_only_layer():
    texts = TEXTS.only_embeddings()
    assert texts.residuals.shape == (len(TEXTS), 1, TEXTS.embeddings.shape[1])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_cluster_is_in_one_fold_and_folds_are_about_as_large(count):
    dealt = folds(TEXTS.labels, TEXTS.clusters, count, seed=1)
    for cluster in set(TEXTS.clusters):
        assert len(set(dealt[TEXTS.clusters == cluster])) == 1
    clusters = [len(set(TEXTS.clusters[dealt == fold])) for fold in range(count)]
    assert max(clusters) - min(clusters) <= 1


def test_single_texts_are_dealt_label_by_label():
    labels = np.array(["a"] * 10 + ["b"] * 5)
    dealt = folds(labels, np.arange(15).astype(str), 5, seed=0)
    for fold in range(5):
        assert list(labels[dealt == fold]).count("b") == 1
        assert list(labels[dealt == fold]).count("a") == 2


def test_folds_are_the_same_for_a_seed_and_other_for_another():
    first, again, other = (TEXTS.folds(3, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
