"""Fixes the values a label may take, and so the number of series, when the exporter is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import Counter

OTHER = "other"


class Allowed:
    """A fixed set of label values; anything else becomes `other` and is counted.

    `shown` says under what other name a value is exported.
    """

    def __init__(
        self, values: Iterable[str], overflow: Counter, shown: Mapping[str, str] | None = None
    ) -> None:
        self._known = {value: encodable((shown or {}).get(value, value)) for value in values}
        self.values = tuple(dict.fromkeys((*self._known.values(), OTHER)))
        self._overflow = overflow

    def pick(self, value: str) -> str:
        """Return `value` if it is allowed, else `other`."""
        known = self._known.get(value)
        if known is None:
            self._overflow.inc()
            return OTHER
        return known

    def add(self, value: str) -> str:
        """Allow one more value; return it as it may be written."""
        self._known[value] = encodable(value)
        self.values = tuple(dict.fromkeys((*self._known.values(), OTHER)))
        return self._known[value]


class Emotions:
    """Pairs of model and emotion; everything about an unknown model shares the pair of `other`s.

    `shown` is the model's name in the metrics.
    """

    def __init__(
        self, model: str, emotions: Sequence[str], overflow: Counter, shown: str | None = None
    ) -> None:
        self.known = encodable(model if shown is None else shown)
        self.models = Allowed([model], overflow, {model: self.known})
        self._labels = Allowed(emotions, overflow)
        own = [(self.known, label) for label in self._labels.values]
        self.pairs = tuple(dict.fromkeys([*own, (OTHER, OTHER)]))

    def pick(self, model: str, label: str) -> tuple[str, str]:
        """Return the pair for a picked `model`: the labels of an unknown one are not ours."""
        return (model, self._labels.pick(label)) if model != OTHER else (OTHER, OTHER)


def encodable(value: str) -> str:
    """Return `value` with lone surrogates replaced: one in a file's name would break `/metrics`."""
    return value.encode("utf-8", "replace").decode()
