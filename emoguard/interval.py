"""The values a number in a policy may have, told once: to code, to YAML and to the JSON Schema."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from emoguard.errors import EmoGuardError


@dataclass(frozen=True)
class Interval:
    """Annotates a number: `above < x` (or `least <= x`) and `x <= most`.

    `Annotated[float, Interval(above=0, most=0.5)]` is checked by `check_intervals` and, because the
    method below speaks pydantic's language, by pydantic and in the JSON Schema it makes.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def __contains__(self, x: float) -> bool:
        return (
            math.isfinite(x)
            and (self.least is None or x >= self.least)
            and (self.above is None or x > self.above)
            and (self.most is None or x <= self.most)
        )

    def __str__(self) -> str:
        if self.most is None:
            return f"be at least {self.least:g}" if self.least is not None else "be finite"
        low = f"[{self.least:g}" if self.above is None else f"({self.above:g}"
        return f"lie in {low}, {self.most:g}]"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        ends = {"ge": self.least, "gt": self.above, "le": self.most}
        return handler(source) | {name: end for name, end in ends.items() if end is not None}


def check_intervals(record: Any) -> None:
    """Check every annotated number of a dataclass instance.

    Raises:
        EmoGuardError: naming the field, what it must be and what it is.

    """
    hints = get_type_hints(type(record), include_extras=True)
    for each in fields(record):
        value = getattr(record, each.name)
        for interval in getattr(hints[each.name], "__metadata__", ()):
            if isinstance(interval, Interval) and value not in interval:
                raise EmoGuardError(f"{each.name} must {interval}, got {value:g}")
