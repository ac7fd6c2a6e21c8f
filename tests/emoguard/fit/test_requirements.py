import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit.corpora import Label, Text
from emoguard.fit.recipe import Pooled, best_layers, layer_scores
from emoguard.fit.requirements import check, check_topics
from emoguard.testing import FakeResiduals
from tests.emoguard.fit.test_recipe import LABELS, NEUTRAL, PLAIN, WORDS, corpus, pooled

HAPPY = [text for text in corpus() if text.label == "happy"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": [5]}, r"\[0, 4\] .* give others by --layers"),
        ({"neutral": NEUTRAL[:5]}, "16 neutral texts, got 5: give more by --neutral"),
        ({"corpora": [HAPPY]}, "label sad"),
        ({"labels": LABELS[:1]}, "got happy: name two at least"),
        (
            {"labels": [*LABELS, Label("", ("blue",), 1)]},
            "a label: wanted 1 to 1,000 printable .* ''",
        ),
        ({"labels": [*LABELS, Label("b\n", ("blue",), 1)]}, "a label: wanted 1 to 1,000 printable"),
        ({"labels": [*LABELS, Label("b\u00a0c", ("blue",), 1)]}, "choose another name"),
        ({"labels": [*LABELS, Label("valence", ("happy",), 1)]}, "name it otherwise"),
    ],
)
def test_inputs_no_probe_can_be_made_from_are_refused(changes, sentence):
    sound = {"corpora": [corpus()], "neutral": NEUTRAL, "labels": LABELS, "layers": [1, 3]}
    check(FakeResiduals(), **sound)
    with pytest.raises(EmoGuardError, match=sentence):
        check(FakeResiduals(), **(sound | changes))


def apart(texts):
    """Give each label topics of its own: happy those held out, sad the others."""
    topics = {"happy": ("a", "d"), "sad": ("b", "c")}
    return [Text(text.label, topics[text.label][n % 2], text.text) for n, text in enumerate(texts)]


def test_topics_of_which_none_can_be_held_out_are_refused_unless_layers_are_named():
    check(FakeResiduals(), [apart(corpus())], NEUTRAL, LABELS, [1])
    with pytest.raises(EmoGuardError, match=r"none in 4 topics: give every label .* --layers"):
        check(FakeResiduals(), [apart(corpus())], NEUTRAL, LABELS, [])
    check(FakeResiduals(), [apart(corpus()), corpus()], NEUTRAL, LABELS, [])
    check(FakeResiduals(), [corpus(topics=1, per_cell=6)], NEUTRAL, LABELS, [])


@pytest.mark.parametrize("seed", range(24))
def test_topics_are_refused_where_layers_could_not_be_chosen_from_the_residuals(seed):
    rng = np.random.default_rng(seed)
    whole = []
    for each in [pooled(n, topics=4, per_cell=6) for n in range(1 + seed % 2)]:
        kept = {name: rng.choice(np.unique(each.topics), 1 + seed % 3) for name in WORDS}
        rows = [t in kept[k] for k, t in zip(each.labels, each.topics, strict=True)]
        whole.append(Pooled(*(values[rows] for values in vars(each).values())))
    texts = [
        [Text(k, t, "") for k, t in zip(each.labels, each.topics, strict=True)] for each in whole
    ]
    scores = layer_scores(whole, PLAIN, list(WORDS))
    if np.isfinite(scores).all(axis=0).any():
        best_layers(scores, 2)
        check_topics(texts)
    else:
        with pytest.raises(EmoGuardError, match="layers cannot be chosen"):
            check_topics(texts)
