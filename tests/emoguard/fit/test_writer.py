from collections import Counter

import pytest

from emoguard import EmoGuardError
from emoguard.fit.corpora import Label, default_labels
from emoguard.fit.writer import LONGEST, SHORTEST, Manuscript, orders, tidy

LABELS = [Label("happy", ("happy", "joyful"), 1), Label("sad", ("sad",), -1)]
BOUND = {"model": "m"}


def good(seed):
    return " ".join(f"word{seed}x{n}" for n in range(SHORTEST)) + "."


def manuscript(tmp_path, bound=BOUND):
    return Manuscript(tmp_path / "c.attempts.jsonl", bound)


def test_orders_cross_labels_topics_and_persons():
    wanted = orders(default_labels(), ["rain", "bread"], 3)
    assert len({order.key for order in wanted}) == len(wanted) == 12 * 2 * 3
    assert Counter(order.person for order in wanted) == {"first": 48, "third": 24}
    assert [order.label.name for order in wanted[:12]] == [la.name for la in default_labels()]


def test_a_prompt_holds_topic_label_and_the_words_that_are_forbidden():
    order = orders(LABELS, ["rain"], 1)[0]
    for part in ("rain", "feels happy", 'Never use "happy" or "joyful"', "first person"):
        assert part in order.prompt(0)
    assert order.prompt(0) != order.prompt(1)


def test_a_text_that_leaks_repeats_or_is_short_is_asked_for_again(tmp_path):
    answers = iter(
        [
            good(0),
            "Too short, this one.",
            good(0),
            good(1) + " How happy she was!",
            good(2),
        ]
    )
    attempts = manuscript(tmp_path)
    done = list(attempts.write(orders(LABELS, ["rain"], 1), lambda prompt, seed: next(answers), 4))
    assert len(done) == 2
    assert attempts.accepted == {("happy", "rain", 0): good(0), ("sad", "rain", 0): good(2)}
    assert attempts.rejected == {"too short": 1, "repeats another text": 1, "names an emotion": 1}


def test_attempts_are_bounded_and_a_text_that_never_comes_is_left_out(tmp_path):
    requests = []

    def ask(prompt, seed):
        requests.append((prompt, seed))
        return "No."

    attempts = manuscript(tmp_path)
    wanted = orders(LABELS, ["rain"], 1)
    list(attempts.write(wanted, ask, 3))
    assert attempts.accepted == {}
    assert attempts.rejected == {"too short": 6}
    assert len(set(requests)) == len({seed for _, seed in requests}) == 6
    # Nor is it tried for ever by calling again.
    attempts.close()
    again = manuscript(tmp_path)
    list(again.write(wanted, ask, 3))
    assert len(requests) == 6
    assert again.rejected == attempts.rejected


@pytest.mark.parametrize("stop", range(1, 6))
def test_interrupted_anywhere_it_goes_on_where_it_was(tmp_path, stop):
    wanted = orders(LABELS, ["rain"], 2)
    seeds = []

    def ask(prompt, seed):
        seeds.append(seed)
        return good(seed) if seed % 2 else "No."

    (tmp_path / "whole").mkdir()
    whole = manuscript(tmp_path / "whole")
    list(whole.write(wanted, ask, 3))
    straight, seeds = seeds.copy(), []

    def interrupted(prompt, seed):
        if len(seeds) == stop:
            raise KeyboardInterrupt
        return ask(prompt, seed)

    with pytest.raises(KeyboardInterrupt):
        list(manuscript(tmp_path).write(wanted, interrupted, 3))
    again = manuscript(tmp_path)
    list(again.write(wanted, ask, 3))
    assert seeds == straight, "something was asked twice, or with another seed"
    assert again.accepted == whole.accepted
    assert again.rejected == whole.rejected


def test_attempts_of_another_model_are_refused(tmp_path):
    manuscript(tmp_path)
    with pytest.raises(EmoGuardError, match=r"texts of other inputs \(model differ\)"):
        manuscript(tmp_path, {"model": "n"})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two.", "One. Two."),
        ('"All of it is quoted."', "All of it is quoted."),
        ('"Go," he said. "Now."', '"Go," he said. "Now."'),
        ("Here is a short scene:\n\nIt rained.", "It rained."),
        ("**The Letter**\n\nIt rained.", "It rained."),
        ("# Rain\nIt *rained*.", "It rained."),
        ("<think>Which? Well.</think>\nIt rained.", "It rained."),
        ("It rained. Then she wen", "It rained."),
        ("It rained\nand rained.", "It rained and rained."),
        ('He asked: "Why?"', 'He asked: "Why?"'),
        ("no sentence at all", ""),
        ("", ""),
    ],
)
def test_what_a_model_wraps_around_a_text_is_taken_off(text, wanted):
    assert tidy(text) == wanted


def test_a_long_text_is_cut_after_a_sentence():
    text = tidy("It rained on us all day. " * 40)
    assert LONGEST - 6 < len(text.split()) <= LONGEST
    assert text.endswith("all day.")
