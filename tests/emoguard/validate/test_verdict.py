import dataclasses

import numpy as np
import pytest

from emoguard.validate.estimate import Estimate
from emoguard.validate.verdict import Evidence, verdict

GOOD = Estimate(0.85, 0.80, 0.90)


PLAIN = Evidence(GOOD, 0.6, held_out=GOOD, file=GOOD, chance=0.58, file_chance=0.58)


def evidence(**changes):
    return dataclasses.replace(PLAIN, **changes)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "usable"),
        ({"file": None}, "usable"),
        ({"recipe": Estimate(0.85, 0.70, 0.90)}, "weak"),
        ({"recipe": Estimate(0.85, 0.71, 0.90)}, "usable"),
        ({"words": 0.80}, "weak"),
        ({"words": 0.79}, "usable"),
        ({"recipe": Estimate(0.60, 0.58, 0.62)}, "not usable"),
        ({"recipe": Estimate(0.60, 0.59, 0.62)}, "weak"),
        ({"recipe": Estimate(0.20, 0.10, 0.30)}, "not usable"),
        ({"recipe": Estimate(np.nan, np.nan, np.nan)}, "not usable"),
        ({"recipe": None}, "untested"),
        ({"recipe": None, "file": None}, "untested"),
        ({"recipe": None, "file": Estimate(0.65, 0.60, 0.69)}, "untested"),
        ({"recipe": None, "file": Estimate(0.52, 0.45, 0.58)}, "not usable"),
        ({"recipe": None, "meaningful": False}, "not usable"),
        ({"recipe": None, "held_out": Estimate(0.5, 0.4, 0.6)}, "not usable"),
        ({"file": Estimate(0.65, 0.60, 0.69)}, "weak"),
        ({"file": Estimate(0.52, 0.45, 0.58)}, "not usable"),
        ({"recipe": Estimate(0.60, 0.59, 0.62), "file": Estimate(0.5, 0.4, 0.6)}, "not usable"),
        ({"chance": 0.82}, "not usable"),
        ({"file_chance": 0.82}, "not usable"),
        ({"meaningful": False}, "not usable"),
    ],
    ids=str,
)
def test_verdicts_follow_their_rule(changes, wanted):
    assert verdict(evidence(**changes)) == wanted


@pytest.mark.parametrize("file", [Estimate(0.99, 0.98, 1.0), GOOD, None])
def test_the_file_never_raises_what_the_recipe_deserves(file):
    weak = Estimate(0.66, 0.62, 0.70)
    assert verdict(evidence(recipe=weak, file=file)) == "weak"
