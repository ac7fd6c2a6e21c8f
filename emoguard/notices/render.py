"""Appends a notice to the text of a response, for callers whose users see only text."""

from __future__ import annotations

from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import describe
from emoguard.records import Report

BETWEEN = "\n\n"


def suffix(report: Report) -> str:
    """Return the notice of a response as a paragraph to append to it, "" if none is due.

    Raises:
        EmoGuardError: something else than a report.

    """
    if not isinstance(report, Report):
        raise EmoGuardError(
            f"report: wanted a Report, got {describe(report)}: watch.reports[-1] is the last"
        )
    return f"{BETWEEN}{report.notice.text}" if report.notice and report.notice.text else ""


def render(text: str, report: Report) -> str:
    """Return `text` with the words of the report's notice after it, if any are due.

    Not for JSON, tool calls or other text that a program reads.

    Raises:
        EmoGuardError: something else than a text and a report.

    """
    if not isinstance(text, str):
        raise EmoGuardError(f"text: wanted the text of one response, got {describe(text)}")
    return text + suffix(report)
