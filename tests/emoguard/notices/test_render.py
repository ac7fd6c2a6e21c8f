import pytest

from emoguard import EmoGuardError, render
from emoguard.testing import every_kind_of_report, make_report

WORDS = every_kind_of_report()[-2]


def test_the_words_of_a_notice_come_after_the_text():
    assert render("An answer.", WORDS) == f"An answer.\n\n{WORDS.notice.text}"
    assert render("An answer.", make_report()) == "An answer."


@pytest.mark.parametrize(
    ("text", "report", "sentence"),
    [
        (WORDS, "An answer.", "text: wanted the text of one response, got Report"),
        (["one", "two"], WORDS, "text: wanted the text of one response, got a list"),
        ("An answer.", None, "report: wanted a Report, got null: watch.reports"),
        ("An answer.", WORDS.wire(), "report: wanted a Report, got a mapping"),
    ],
)
def test_other_arguments_are_named(text, report, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        render(text, report)
