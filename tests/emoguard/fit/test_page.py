"""The page of a probe: whole by itself, and nothing in it is markup that came from elsewhere."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from emoguard.fit import page
from emoguard.fit.page import Example, Step
from emoguard.probe.certificate import Threshold
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

HOSTILE = "<script>alert('x')</script>&\"'"
PROBE = make_probe(FakeResiduals(), ("happy", HOSTILE))
CARD = {
    "verdicts": {"happy": "usable", HOSTILE: "not usable"},
    "rule": HOSTILE,
    "recipe": {
        "happy": {"transfer": [0.9, 0.85, 0.94], "words": 0.7},
        HOSTILE: {"transfer": None, "words": None},
    },
    "layer_auroc": {"0": 0.5, "1": 0.8, "2": None},
}


class Tags(HTMLParser):
    """Collects tags, and what they would load."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.styles = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href", "action")]
        self.styles += [v for k, v in attributes if tag == "s" and k == "style"]


def made(card=CARD, **changes):
    probe = dataclasses.replace(PROBE, name=HOSTILE, card=card)
    identity = dataclasses.replace(FAKE_IDENTITY, name=HOSTILE, quantisation=HOSTILE)
    parts = {
        "thresholds": {"happy": Threshold(2.35, 0.1, 3), HOSTILE: None},
        "cautions": [HOSTILE],
        "facts": {HOSTILE: HOSTILE},
        "examples": [
            Example(HOSTILE, ["@title", HOSTILE], np.array([[2.0, 0.0], [0.1, -9.0]]), "happy")
        ],
        "steps": [Step(HOSTILE, HOSTILE)],
    }
    return page.html(probe, make_calibration(PROBE, identity), **(parts | changes))


def test_nothing_from_elsewhere_becomes_markup():
    text = made()
    tags = Tags()
    tags.feed(text)
    assert tags.tags.count("script") == 1
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(", "", text)
    assert text.count("&lt;script&gt;") >= 10


def test_it_loads_nothing():
    tags = Tags()
    tags.feed(made())
    assert tags.loads == []
    assert "default-src 'none'" in made()
    assert "http://" not in made()
    assert "https://" not in made()


def test_no_place_of_the_template_is_left_and_none_in_a_text_is_filled():
    text = made()
    assert re.findall(r"@(?!media)\w+", text) == ["@title"]


def test_labels_have_verdict_interval_floor_and_threshold():
    text = made()
    assert '<td class="usable">usable</td>' in text
    assert '<i style="left:75.0%;width:15.0%">' in text  # .85 to .94 between .4 and 1
    assert '<u style="left:50.0%">' in text
    assert "2.35" in text
    assert "none certified" in text


def test_tokens_have_the_colours_of_a_terminal():
    tags = Tags()
    tags.feed(made())
    assert "background-color:rgb(206, 72, 0)" in tags.styles  # z of 2


def test_layers_that_the_user_named_were_not_chosen(monkeypatch):
    assert ", chosen by how well labels are told apart" in made()
    named = dataclasses.replace(PROBE, recipe={**PROBE.recipe, "layers": [1, 2]})
    monkeypatch.setattr("tests.emoguard.fit.test_page.PROBE", named)
    assert "named by you; the bars show how well labels are told apart" in made()


def test_a_probe_without_a_judgement_says_so():
    assert "Not judged" in made(card={})


@pytest.mark.parametrize("part", ["cautions", "examples", "steps"])
def test_parts_may_be_missing(part):
    assert made(**{part: []})
