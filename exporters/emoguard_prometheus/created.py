"""Leaves out the `_created` series that prometheus_client adds to every counter."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric


class WithoutCreated:
    """The metrics of `own` without their `_created` samples.

    prometheus_client can leave those out only for the whole process, which is not ours to decide.
    """

    def __init__(self, own: CollectorRegistry) -> None:
        self._own = own

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of `own`."""
        for metric in self._own.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric

    # The registry calls this on registration, to refuse a second exporter with the same names.
    describe = collect
