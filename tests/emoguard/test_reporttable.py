"""A report as a table, on a terminal and in a notebook."""

import html
import re
from dataclasses import replace

import pytest

from emoguard import EmoGuardError, Report, Request
from emoguard.colour import background
from emoguard.records import LabelScore, Receipt
from emoguard.reporttable import bar, rows
from emoguard.testing import every_kind_of_report, make_report

SCORES = {
    "sad": LabelScore(-0.5, 0.1, 0.31, 0, "weak"),
    "valence": LabelScore(2.5, 2.9, 0.99, 1, "usable"),
    "happy": LabelScore(1.25, None, 0.9, 0, "usable"),
}
REPORT = replace(make_report(), scores=SCORES)
RECEIPT = Receipt(
    {"add": {"calm": 0.05}, "cap": {"sad": 0.9}}, None, (12, 16), 0.1, 0.048, 0.05, 20, 3, 0
)


def test_printed_it_is_a_table_highest_mean_first():
    lines = str(REPORT).splitlines()
    assert lines[0].split("  ")[0] == "label"
    assert [line.split()[0] for line in lines[1:4]] == ["valence", "happy", "sad"]
    assert lines[3].split()[:5] == ["sad", "(weak)", "-0.5", "+0.1", "0.31"]
    assert "40 of 40 tokens read" in lines[4]


def test_columns_stand_under_their_heads():
    head, *body = str(REPORT).splitlines()[:4]
    ends = [match.end() for match in re.finditer(r"mean z|peak|rank", head)]
    for line in body:
        assert all(line[end - 1] != " " and line[end] == " " for end in ends)


def test_contrasts_stand_below_the_emotions_where_they_are_known():
    actual = rows(SCORES, ["valence"])
    assert [row.label for row in actual] == ["happy", "sad", "valence"]
    assert [row.is_last_emotion for row in actual] == [False, True, False]
    assert not any(row.is_last_emotion for row in rows(SCORES))


def test_without_a_calibration_there_are_neither_ranks_nor_colours():
    report = make_report(Request(scores="text"), calibrated=False, tokens=2, pieces=("a", "b"))
    assert "mean projection" in str(report)
    assert "uncalibrated: no calibration for exactly this model file" in str(report)
    assert "background" not in report.html()


@pytest.mark.parametrize("report", every_kind_of_report(), ids=lambda r: r.status)
def test_every_kind_of_report_has_its_words(report: Report):
    text, notebook = str(report), report._repr_html_()
    assert "tokens read" in text
    assert (f"{report.status}:" in text) == (report.status != "scored")
    assert notebook.count("<table>") == bool(report.scores)
    for line in text.splitlines()[-1:]:
        assert html.escape(line) in notebook


def test_a_receipt_is_one_line_of_it():
    text = str(replace(REPORT, receipt=RECEIPT))
    assert "steered: calm +0.05, sad ≤ q0.9 at layers 12, 16; 20 tokens moved, by 4.8%" in text
    assert "3 clipped" in text


def test_a_notebook_shows_each_token_in_the_colour_of_the_label():
    report = make_report(Request(scores="text"), tokens=3, pieces=("a ", "b\n", "<c>"))
    actual = report.html("sad")
    spans = re.findall(r"<span(.*?)>(.*?)</span>", actual, re.DOTALL)
    assert [html.unescape(text) for _, text in spans] == ["a ", "b\n", "<c>"]
    for (style, _), token in zip(spans, report.tokens, strict=True):
        colour = background(token.z[1])
        assert (colour is not None) == ("background" in style)
        if colour is not None:
            assert ",".join(map(str, colour)) in style
    assert "in the colour of sad" in actual


def test_the_default_colour_is_that_of_the_highest_mean():
    report = make_report(Request(scores="text"), tokens=3, pieces=("a", "b", "c"))
    best = max(report.scores, key=lambda label: report.scores[label].mean)
    assert report._repr_html_() == report.html(best)


def test_a_token_at_an_attention_sink_has_no_colour():
    pieces = tuple("abcd")
    report = make_report(Request(scores="text"), tokens=4, pieces=pieces, attention_sinks=1, seed=3)
    assert "<span>a</span>" in report.html()


def test_html_needs_a_label_that_was_read():
    with pytest.raises(EmoGuardError, match="unknown label joy: this report has happy, sad"):
        make_report().html("joy")


def test_nothing_that_a_model_or_a_file_says_becomes_markup_or_moves_the_cursor():
    scores = {"<b>\x1b[2J": SCORES["sad"]}
    report = replace(
        make_report(Request(scores="text"), tokens=1, pieces=("<script>\x1b",)),
        scores=scores,
        probe="<i>\x1b@0",
        status="error",
        detail="<u>\x1b",
    )
    for text in (str(report), report.html()):
        assert "\x1b" not in text
    for tag in ("<b>", "<script>", "<i>", "<u>"):
        assert tag not in report.html()


def test_bars_grow_from_the_middle():
    assert "".join(bar(0.5)) == "─" * 10 + "┿" + "─" * 10
    assert "".join(bar(1.0)) == "─" * 10 + "━" * 11
    assert "".join(bar(0.0)) == "━" * 11 + "─" * 10
    assert "".join(bar(None)) == "-"
