"""Writes and reads one line of an audit log: a report between its place in the chain and a MAC.

    {"line":17,"prev":"<MAC of line 16>","id":…, …,"version":1,"mac":"<MAC>"}

The MAC is HMAC-SHA256 over everything before `,"mac":`. The first line of a log has a random
`prev`, so that lines of two logs with one key cannot be mixed. The first line after a restart that
found an unfinished one has the SHA-256 of its bytes as `torn`, after `prev`: nobody without the key
can pass a row off as torn. Apart from these keys a line is a Report (`docs/report.schema.json`)
without any text.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from emoguard import jsontext
from emoguard.errors import EmoGuardError
from emoguard.records import Report
from emoguard_jsonl.key import Key

NUMBER = re.compile(rb'\{"line":([0-9]{1,18}),')
SHAPE = re.compile(
    rb'^\{"line":([0-9]{1,18}),"prev":"([0-9a-f]{64})",(?:"torn":"([0-9a-f]{64})",)?'
    rb'.*,"mac":"([0-9a-f]{64})"\}$',
    re.MULTILINE,
)
"""The shape of a whole line of a log, whatever its key."""

TAIL = len(',"mac":""}') + 64
LONGEST_ID = 128

_encode = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Line:
    """The place of a line in the chain; `sound` if its MAC fits its bytes.

    `torn` is the digest of the unfinished row before it, if the process found one.
    """

    number: int
    prev: str
    mac: str
    sound: bool
    torn: str | None = None


def write(
    report: Report, number: int, prev: str, key: Key, torn: str | None = None
) -> tuple[bytes, str]:
    """Return a line, newline included, and its MAC.

    Raises:
        ValueError: the report holds a number that is not finite.

    """
    mark = {} if torn is None else {"torn": torn}
    data = {"line": number, "prev": prev} | mark | content(report, key)
    body = _encode(data)[:-1].encode("ascii")
    mac = key.seal(body)
    return b'%s,"mac":"%s"}\n' % (body, mac.encode("ascii")), mac


def read(raw: bytes, key: Key) -> Line | None:
    """Parse a row without its newline; None if it is not a whole line."""
    match = SHAPE.fullmatch(raw)
    return None if match is None else parse(match, key)


def parse(match: re.Match[bytes], key: Key) -> Line:
    """Parse a match of `SHAPE`."""
    parts: list[Any] = [part and part.decode("ascii") for part in match.groups()]
    number, prev, torn, mac = parts
    return Line(int(number), prev, mac, key.seal(match[0][:-TAIL]) == mac, torn)


def digest(raw: bytes) -> str:
    """Return the SHA-256 of an unfinished row, as `torn` has it."""
    return hashlib.sha256(raw).hexdigest()


def is_beginning(raw: bytes, number: int, prev: str | None) -> bool:
    """Return whether `raw` may be line `number`, after `prev`, as far as a killed process wrote it.

    A machine that lost power may leave zeros in the place of the rest, or of all.
    """
    wanted = b'{"line":%d,"prev":"%s' % (number, (prev or "").encode("ascii"))
    written = raw.rstrip(b"\0")[: len(wanted)]
    return bool(raw) and wanted.startswith(written) and not _is_json(raw)


def _is_json(raw: bytes) -> bool:
    """Return whether a row is whole: an unfinished line never is."""
    if not raw.rstrip().endswith(b"}"):
        return False
    try:
        jsontext.parse(raw, largest=len(raw), surrogates=True)
    except EmoGuardError:
        return False
    return True


def content(report: Report, key: Key) -> dict[str, Any]:
    """Return the fields of a report for a line: no text, and nothing to recover text from.

    Token ids are left out (`tokens` is empty), and so are quotations in errors: of `detail`, only
    the words before the first colon or bracket stay. A conversation becomes its keyed pseudonym,
    ids are cut to 128 characters. Not `Report.as_dict`, which copies every part first: twice the
    time.
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
