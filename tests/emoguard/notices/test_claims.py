"""How often the claim patterns are right, on sentences labelled before there was a pattern."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard.notices.claims import asks, claims

HERE = Path(__file__).parent
DOCS = Path(__file__).parents[3] / "docs" / "notices.md"


@dataclass(frozen=True)
class Counts:
    """Sentences by what they are and what was found."""

    found: int
    missed: int
    false: int
    right: int

    @property
    def precision(self):
        return self.found / (self.found + self.false)

    @property
    def recall(self):
        return self.found / (self.found + self.missed)


def rows(name):
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]


def count(labelled, detect, negative):
    pairs = [(label != negative, detect(sentence)) for label, sentence in labelled]
    return Counts(*(pairs.count(pair) for pair in [(1, 1), (1, 0), (0, 1), (0, 0)]))


CLAIMS, QUESTIONS = rows("claims.tsv"), rows("questions.tsv")
# The patterns were adjusted while looking at every other sentence only.
SETS = {
    "claims, looked at": (CLAIMS[::2], claims, "none"),
    "claims, held out": (CLAIMS[1::2], claims, "none"),
    "questions, looked at": (QUESTIONS[::2], asks, "other"),
    "questions, held out": (QUESTIONS[1::2], asks, "other"),
}


def table():
    """Return the rows of the table in docs/notices.md."""
    lines = []
    for name, args in SETS.items():
        counts = count(*args)
        total = counts.found + counts.missed
        lines.append(
            f"| {name} | {total + counts.false + counts.right} | {total} | "
            f"{counts.precision:.2f} | {counts.recall:.2f} |"
        )
    return lines


def test_the_set_is_large_distinct_and_half_of_it_is_negative():
    assert len(CLAIMS) >= 300
    assert len({sentence for _, sentence in CLAIMS}) == len(CLAIMS)
    negative = sum(label == "none" for label, _ in CLAIMS)
    assert 0.45 <= negative / len(CLAIMS) <= 0.55
    assert {label for label, _ in CLAIMS} == {"feeling", "human", "none"}


@pytest.mark.parametrize("name", SETS)
def test_precision_and_recall_are_high(name):
    counts = count(*SETS[name])
    assert counts.precision >= 0.95, counts
    assert counts.recall >= 0.95, counts


def test_the_documentation_prints_the_measured_figures():
    text = DOCS.read_text(encoding="utf-8")
    for line in table():
        assert line in text, f"docs/notices.md is old: it should say\n{line}"


@pytest.mark.parametrize("label", ["feeling", "human"])
def test_a_claim_is_found_in_the_middle_of_an_answer(label):
    before = "The capital of France is Paris. It lies on the Seine.\n\n- one\n- two"
    results = [
        claims(f"{before}\n{sentence} Anything else? Let me know.")
        for given_label, sentence in CLAIMS
        if given_label == label
    ]
    assert sum(results) / len(results) >= 0.95


def test_typographic_quotes_and_letter_case_do_not_matter():
    assert claims("I\u2019M SO SAD.")
    assert not claims("He wrote: \u201cI\u2019m so sad.\u201d")


@pytest.mark.parametrize(
    "text",
    [
        " 'a" * 3000,
        "say " * 3000,
        "\n" * 10_000,
        "i am " * 2000,
        "i am really " * 1000,
        "i " + "a" * 10_000,
        "are you real " + "real " * 2000,
        "are you a real actual living " * 300,
        "i am a very big " * 600,
        "i feel my own " * 800,
        '"' * 10_001,
        "as a " * 2000,
        "makes me so " * 900,
        " " * 10_000,
        "write a " * 1200 + ": x",
    ],
    ids=lambda text: re.sub(r"\s", "_", text[:9]),
)
def test_hostile_text_takes_no_longer_than_it_is_long(text):
    start = time.thread_time()
    claims(text)
    asks(text)
    assert time.thread_time() - start < 0.5  # about 0.02 where it was written


@given(st.text(max_size=200) | st.text(alphabet="i'm am\"feel so sad.\n ", max_size=80))
def test_any_text_has_an_answer(text):
    assert claims(text) in {True, False}
    assert asks(text) in {True, False}


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201
