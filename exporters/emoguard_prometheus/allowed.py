"""The values a label may take: the number of series is fixed when the exporter is made."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter

OTHER = "other"


class Allowed:
    """A fixed set of label values; anything else becomes `other` and is counted."""

    def __init__(self, values: Iterable[str], overflow: Counter) -> None:
        self._known = {value: encodable(value) for value in values}
        self.values = tuple(dict.fromkeys((*self._known.values(), OTHER)))
        self._overflow = overflow

    def pick(self, value: str) -> str:
        """Return `value` when it is allowed, else `other`."""
        known = self._known.get(value)
        if known is None:
            self._overflow.inc()
            return OTHER
        return known


def encodable(value: str) -> str:
    """Return `value` with lone surrogates replaced: one in a file's name would break `/metrics`."""
    return value.encode("utf-8", "replace").decode()
