"""Parses JSON as most apps read it: also with NaN, and in UTF-16; within a bound of memory."""

from __future__ import annotations

import json
from typing import Any

from emoguard.jsontext import MOST_VALUES


class UnboundedError(Exception):
    """Raised for a text with too many values, levels or digits to be parsed; it may be JSON."""


def parse(data: bytes) -> Any:
    """Return the value of a text.

    Raises:
        ValueError: no app would read it as JSON. UnboundedError: it is beyond the bounds.

    """
    # In UTF-16 half of another letter may look like a mark: it is counted, which does no harm.
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise UnboundedError
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except (ValueError, RecursionError) as error:
        raise UnboundedError from error
