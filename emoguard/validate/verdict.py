"""Decides by rule, in one word per label, whether its score may be acted on."""

from __future__ import annotations

from dataclasses import dataclass

from emoguard.records import VERDICTS, Verdict
from emoguard.validate.estimate import Estimate

LEAST = 0.70
"""The whole interval of a usable label's AUROC lies above this."""


@dataclass(frozen=True)
class Evidence:
    """The evidence of a verdict.

    `recipe` is the AUROC on corpora left out of the fit, None when no other corpus has the label;
    `words` the best text-only detector on the same texts. `held_out` is that on topics left out
    within corpora. `file` is the AUROC of the probe file's own directions, None when only a recipe
    is judged; the file was fitted on these texts, so this number can lower a verdict, never raise
    it. A label of a meaningless recipe or file stays below `chance` and `file_chance`. `meaningful`
    if all labels together exceed the level of meaningless ones: otherwise a single good label may
    be luck.
    """

    recipe: Estimate | None
    words: float
    held_out: Estimate
    file: Estimate | None
    chance: float
    file_chance: float
    meaningful: bool = True


def verdict(evidence: Evidence) -> Verdict:
    """Return the lower of the recipe's and the file's verdicts.

    `usable`: the whole interval of the transfer lies above .70 and above the text alone. `weak`: it
    lies above the level of directions without meaning. `untested`: no second corpus has the label,
    and within its own corpus it exceeds that level. Else `not usable`, and so are all labels of a
    recipe or file that is meaningless as a whole.
    """
    if not evidence.meaningful:
        return "not usable"
    lowest = _recipe(evidence)
    if evidence.file is not None:
        lowest = min(lowest, _above(evidence.file, LEAST, evidence.file_chance), key=VERDICTS.index)
    return lowest


def _recipe(evidence: Evidence) -> Verdict:
    if evidence.recipe is not None:
        return _above(evidence.recipe, max(LEAST, evidence.words), evidence.chance)
    return "untested" if evidence.held_out.low > evidence.chance else "not usable"


def _above(estimate: Estimate, usable: float, weak: float) -> Verdict:
    if estimate.low > max(usable, weak):
        return "usable"
    return "weak" if estimate.low > weak else "not usable"
