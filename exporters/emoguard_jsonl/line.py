"""One line of an audit log: a report, its number, the MAC of the line before, and its own.

    {"line":17,"prev":"<MAC of line 16>","id":…, …,"version":1,"mac":"<MAC>"}

The MAC is HMAC-SHA256 over everything before `,"mac":`. The first line of a log has a random
`prev`, so that lines of two logs with one key cannot be mixed. Besides these three keys a line is a
Report (`docs/report.schema.json`) without anything that tells what was said.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from emoguard.records import Report
from emoguard_jsonl.key import Key

NUMBER = re.compile(rb'\{"line":([0-9]{1,18}),')
SHAPE = re.compile(
    rb'\{"line":([0-9]{1,18}),"prev":"([0-9a-f]{64})",.*,"mac":"([0-9a-f]{64})"\}\n?', re.DOTALL
)
TAIL = len(',"mac":""}') + 64
LONGEST_ID = 128

_encode = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Line:
    """What the chain needs of a line; `sound` says whether the MAC is that of its bytes."""

    number: int
    prev: str
    mac: str
    sound: bool


def write(report: Report, number: int, prev: str, key: Key) -> tuple[bytes, str]:
    """Return a line, newline included, and its MAC.

    Raises:
        ValueError: the report holds a number that is not finite.

    """
    body = _encode({"line": number, "prev": prev} | content(report, key))[:-1].encode("ascii")
    mac = key.seal(body)
    return b'%s,"mac":"%s"}\n' % (body, mac.encode("ascii")), mac


def read(raw: bytes, key: Key) -> Line | None:
    """Return the line that `raw` is, None when it is not a whole one."""
    found = SHAPE.fullmatch(raw)
    if found is None:
        return None
    number, prev, mac = int(found[1]), found[2].decode("ascii"), found[3].decode("ascii")
    return Line(number, prev, mac, key.seal(raw.rstrip(b"\n")[:-TAIL]) == mac)


def content(report: Report, key: Key) -> dict[str, Any]:
    """Return what a line says of a report: no text, and nothing to make text of.

    Left out are token ids (`tokens` is empty) and what errors quote: of `detail` the words before
    the first colon or bracket stay. A conversation becomes its keyed pseudonym, ids are cut to 128
    characters. Not `Report.as_dict`, which copies every part first: twice the time.
    """
    conversation, detail = report.conversation, report.detail
    return vars(report) | {
        "id": report.id[:LONGEST_ID],
        "call": report.call[:LONGEST_ID],
        "scores": {label: vars(score) for label, score in report.scores.items()},
        "conversation": None if conversation is None else key.pseudonym(conversation),
        "tokens": (),
        "receipt": None if report.receipt is None else vars(report.receipt),
        "notice": None if report.notice is None else vars(report.notice),
        "detail": None if detail is None else re.split("[:(]", detail, maxsplit=1)[0].strip(),
    }
