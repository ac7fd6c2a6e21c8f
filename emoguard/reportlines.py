"""Reads stored reports again: JSON lines as an audit log writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.records import STATUSES, VERDICTS, LabelScore, Notice, Receipt, Report, TokenScore

BEGINS = re.compile(rb'\{"line":[0-9]')
MAC = re.compile(rb',"mac":"[0-9a-f]{64}"\}\n\Z')


def read(path: str | Path) -> Iterator[Report]:
    """Yield the reports of a file, one per line; keys that no report has are passed over.

    A line that a process did not finish, at the end or before a restart, is left out.

    Raises:
        EmoGuardError: the file cannot be read, or a line is no report; it is named.

    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if not _is_torn(line):
                    yield _report(line, f"{path}:{number}")
    except OSError as error:
        raise EmoGuardError(f"log {path} cannot be read: {error.strerror}") from error


def _is_torn(line: bytes) -> bool:
    """Return whether writing a line was interrupted; those of an audit log end with their MAC."""
    audited = BEGINS.match(line) is not None or b'{"line":'.startswith(line[:-1])
    return not line.endswith(b"\n") or (audited and MAC.search(line) is None)


def _report(line: bytes, place: str) -> Report:
    try:
        return parse(json.loads(line))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise EmoGuardError(
            f"{place}: wanted a report as one line of JSON, got something else "
            f"({type(error).__name__}: {error!s:.80}): give a log of emoguard_jsonl"
        ) from error


def parse(data: Mapping[str, Any]) -> Report:
    """Return the report that `Report.as_dict` made `data` of.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it made something else.

    """
    known = {each.name for each in fields(Report)}
    given = {name: value for name, value in data.items() if name in known}
    if given["status"] not in STATUSES or given.get("version", 1) != 1:
        raise ValueError("unknown status or version")
    given["scores"] = {label: _score(score) for label, score in given["scores"].items()}
    given["phases"] = {phase: int(count) for phase, count in given.get("phases", {}).items()}
    given["faults"] = tuple(given.get("faults", ()))
    given["tokens"] = tuple(
        TokenScore(
            each["id"], each["phase"], tuple(each["z"]), bool(each.get("attention_sink", False))
        )
        for each in given.get("tokens", ())
    )
    if given.get("receipt") is not None:
        given["receipt"] = Receipt(**given["receipt"])
    if given.get("notice") is not None:
        told = given["notice"]
        lists = {name: tuple(told[name]) for name in ("reasons", "profiles")}
        given["notice"] = Notice(**{**told, **lists})
    given["denied"] = tuple(given.get("denied", ()))
    return Report(**given)


def _score(score: Mapping[str, Any]) -> LabelScore:
    crossings = score.get("crossings")
    return LabelScore(
        float(score["mean"]),
        _number(score["peak"]),
        _number(score["rank"]),
        None if crossings is None else int(crossings),
        score.get("verdict") if score.get("verdict") in VERDICTS else None,
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
