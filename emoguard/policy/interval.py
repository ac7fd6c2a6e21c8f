"""States the range of a number in a policy once, for code, YAML and the JSON Schema."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """Annotates a number: `above < x` (or `least <= x`) and `x <= most`.

    `Annotated[float, Interval(above=0, most=0.5)]` is checked wherever
    `emoguard.policy.annotation` reads it and, because the method below speaks pydantic's
    language, stands in the JSON Schema, too.
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
        if self.most is not None:
            low = f"[{self.least:g}" if self.above is None else f"({self.above:g}"
            return f"in {low}, {self.most:g}]"
        return f"of at least {self.least:g}" if self.above is None else f"above {self.above:g}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        ends = {"ge": self.least, "gt": self.above, "le": self.most}
        return handler(source) | {name: end for name, end in ends.items() if end is not None}
