"""Measures judges against answers of real models that were labelled by hand.

They lie in `labelled_answers/` as JSON lines: answers to everyday prompts with the labels they
express, answers that accept a false premise or not, answers that refuse or not.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard import jsontext
from emoguard.study.items import premises
from emoguard.study.judges import accepts, refuses
from emoguard.study.statistics import JudgeAccuracy, judge_accuracy

if TYPE_CHECKING:
    from emoguard.study.judges import Judge

LABELS = ("happy", "desperate")
"""Labels that the answers to everyday prompts were checked for."""


def accuracy(judge: Judge, label: str, level: float) -> JudgeAccuracy | None:
    """Return the accuracy of a judge of expression at a level; None for an unlabelled label."""
    if label not in LABELS:
        return None
    records = _read("expression")
    verdicts = judge.scores(label, [each["text"] for each in records]) > level
    truth = np.array([label in each["expresses"] for each in records])
    return judge_accuracy(verdicts, truth)


def premise_accuracy() -> JudgeAccuracy:
    """Return the accuracy of the patterns that find answers accepting a false premise."""
    known = {each.name: each for each in premises()}
    records = _read("premise")
    verdicts = np.array([accepts(each["text"], known[each["premise"]]) for each in records])
    return judge_accuracy(verdicts, np.array([bool(each["accepts"]) for each in records]))


def refusal_accuracy() -> JudgeAccuracy:
    """Return the accuracy of the patterns that find refusals."""
    records = _read("refusal")
    verdicts = np.array([refuses(each["text"]) for each in records])
    return judge_accuracy(verdicts, np.array([bool(each["refuses"]) for each in records]))


@functools.cache
def _read(name: str) -> list[Any]:
    text = (files("emoguard.study") / "labelled_answers" / f"{name}.jsonl").read_text("utf-8")
    return [jsontext.parse(line) for line in text.split("\n") if line.strip()]
