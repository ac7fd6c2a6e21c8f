import pytest

from emoguard import EmoGuardError
from emoguard.fit.corpora import Label
from emoguard.fit.requirements import check
from emoguard.testing import FakeResiduals
from tests.emoguard.fit.test_recipe import LABELS, NEUTRAL, corpus

HAPPY = [text for text in corpus() if text.label == "happy"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": [5]}, r"\[0, 4\] .* give others by --layers"),
        ({"neutral": NEUTRAL[:5]}, "16 neutral texts, got 5: give more by --neutral"),
        ({"corpora": [HAPPY]}, "label sad"),
        ({"labels": LABELS[:1]}, "name two at least"),
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
