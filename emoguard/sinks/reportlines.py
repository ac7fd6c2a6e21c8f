"""Reads stored reports: JSON lines as an audit log writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from emoguard import jsontext
from emoguard.errors import EmoGuardError
from emoguard.records import STATUSES, VERDICTS, LabelScore, Notice, Receipt, Report, TokenScore

TYPES: dict[str, type] = {
    "id": str,
    "model": str,
    "probe": str,
    "identity": str,
    "backend": str,
    "finish": str,
    "call": str,
    "short": bool,
    "sampled": bool,
    "provisional": bool,
}
COUNTS = ("completion_tokens", "tokens_scored", "attention_sinks")

LATEST = 253_402_300_800
"""The year 10,000, which no date of Python's can have."""


def read(line: bytes, place: str) -> Report:
    """Return the report in a line; keys that no report has are ignored.

    `place` names the line in errors.

    Raises:
        EmoGuardError: the line is no report.

    """
    try:
        # A client's id may cut a character in half.
        return parse(jsontext.parse(line, surrogates=True))
    except (EmoGuardError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EmoGuardError(
            f"{place}: wanted a report as one line of JSON, got something else "
            f"({type(error).__name__}: {error!s:.80}): give a log of emoguard_jsonl"
        ) from error


def parse(data: Mapping[str, Any]) -> Report:
    """Return the report from which `Report.as_dict` made `data`.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: `data` is not of a report.

    """
    known = {each.name for each in fields(Report)}
    values = {name: value for name, value in data.items() if name in known}
    if values["status"] not in STATUSES or values.get("version", 1) != 1:
        raise ValueError("unknown status or version")
    for name, wanted in TYPES.items():
        if type(values.get(name, wanted())) is not wanted:
            raise TypeError(f"{name} is no {wanted.__name__}")
    for name in COUNTS:
        _count(values.get(name, 0))
    _number(values.get("overhead_seconds", 0))
    values["created"] = _number(values.get("created", 0))
    if not 0 <= values["created"] < LATEST:
        raise ValueError("it was made at no time")
    values["scores"] = {label: _score(score) for label, score in values["scores"].items()}
    values["phases"] = {phase: _count(count) for phase, count in values.get("phases", {}).items()}
    values["faults"] = tuple(values.get("faults", ()))
    values["tokens"] = tuple(
        TokenScore(
            each["id"], each["phase"], tuple(each["z"]), bool(each.get("attention_sink", False))
        )
        for each in values.get("tokens", ())
    )
    if values.get("receipt") is not None:
        receipt = values["receipt"] = Receipt(**values["receipt"])
        for count in (receipt.applied, receipt.clipped, receipt.faulted):
            _count(count)
    if values.get("notice") is not None:
        notice = values["notice"]
        lists = {name: tuple(notice[name]) for name in ("reasons", "profiles")}
        values["notice"] = Notice(**{**notice, **lists})
    values["denied"] = tuple(values.get("denied", ()))
    return Report(**values)


def _score(score: Mapping[str, Any]) -> LabelScore:
    peak, rank, crossings = score["peak"], score["rank"], score.get("crossings")
    return LabelScore(
        _number(score["mean"]),
        None if peak is None else _number(peak),
        None if rank is None else _number(rank),
        None if crossings is None else _count(crossings),
        score.get("verdict") if score.get("verdict") in VERDICTS else None,
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number is none")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError("a count is none")
    return value
