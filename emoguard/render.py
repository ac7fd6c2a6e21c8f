"""Writes a notice after the text of a response, for callers whose users see nothing but text."""

from __future__ import annotations

from emoguard.records import Report

BETWEEN = "\n\n"


def suffix(report: Report) -> str:
    """Return what to write after a response: its notice as a paragraph, "" where nothing is due."""
    return f"{BETWEEN}{report.notice.text}" if report.notice and report.notice.text else ""


def render(text: str, report: Report) -> str:
    """Return `text` with the words of the report's notice after it, if any are due.

    Not for JSON, tool calls or other text that a program reads.
    """
    return text + suffix(report)
