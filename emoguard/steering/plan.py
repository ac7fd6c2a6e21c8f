"""Defines the steering plan: per label an added dose, a cap, a floor or an ablation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from emoguard.errors import EmoGuardError
from emoguard.policy import schema
from emoguard.policy.interval import Interval

CEILING = 0.5
"""No policy may allow a larger dose: at half its length a residual is no longer the model's own."""

Quantile = Annotated[float, Interval(least=0, most=1)]
"""A neutral quantile."""


@dataclass(frozen=True)
class Plan:
    """An intervention in words of a probe's labels.

    `add`: label → dose, the length of what is added along the label's steer direction as a share of
    the reference norm, all layers together; negative moves away. `cap` and `floor`: label → limit
    on h·v as a quantile of neutral response tokens, in [0, 1]. `ablate`: labels held at the
    neutral median. `layers`: which of the probe's layers to act on (empty: all). `prompt`: also act
    on the prompt's own tokens. `probe`: the name of the probe this plan was made for, if it matters
    (`name` or `name@digest`).

    Raises:
        EmoGuardError: a value of another type, a number that is not finite, a quantile outside
            [0, 1], a negative layer, a cap under a floor.

    """

    add: Mapping[str, float] = field(default_factory=dict)
    cap: Mapping[str, Quantile] = field(default_factory=dict)
    floor: Mapping[str, Quantile] = field(default_factory=dict)
    ablate: tuple[str, ...] = ()
    layers: tuple[Annotated[int, Interval(least=0)], ...] = ()
    prompt: bool = False
    probe: str = ""

    def __post_init__(self) -> None:
        schema.check(self)
        for label in self.cap.keys() & self.floor.keys():
            if self.cap[label] < self.floor[label]:
                raise EmoGuardError(
                    f"plan holds {label:.60} under a cap of {self.cap[label]:g} and over a floor "
                    f"of {self.floor[label]:g}: raise the cap or lower the floor"
                )

    @classmethod
    def parse(cls, data: Any) -> Plan:
        """Return a plan, or make one from a mapping with keys as in a policy's YAML.

        Raises:
            EmoGuardError: something else, an unknown key or a wrong value.

        """
        return schema.parse(cls, data, "plan")

    @property
    def labels(self) -> tuple[str, ...]:
        """Return every label the plan names, each once."""
        named = (*self.add, *self.cap, *self.floor, *self.ablate)
        return tuple(dict.fromkeys(named))

    @property
    def is_empty(self) -> bool:
        """Return whether the plan does nothing at all."""
        return not (any(self.add.values()) or self.cap or self.floor or self.ablate)

    @property
    def dose(self) -> float:
        """Return the largest share of the reference norm that `add` can come to.

        Infinite if the sum of finite doses is too large for a float.
        """
        try:
            return math.fsum(map(abs, self.add.values()))
        except OverflowError:
            return math.inf

    def over(self, base: Plan) -> Plan:
        """Return this plan laid over `base`, whose limits it can tighten and never loosen.

        Doses of `add` replace those of the same label; of two caps the lower holds, of two floors
        the higher. Layers are those of a `base` that is not empty: more would leave each of them a
        smaller share of the bound, and so less room for its limits.

        Raises:
            EmoGuardError: limits that contradict each other, or one on what `base` ablates.

        """
        cap, floor = dict(base.cap), dict(base.floor)
        for label, limit in self.cap.items():
            cap[label] = min(limit, cap.get(label, 1.0))
        for label, limit in self.floor.items():
            floor[label] = max(limit, floor.get(label, 0.0))
        for label in base.ablate:
            if (cap.get(label), floor.get(label)) != (base.cap.get(label), base.floor.get(label)):
                raise EmoGuardError(
                    f"{label:.60} is held at its neutral median already (ablate): leave it out of "
                    "plan.cap and plan.floor"
                )
        return Plan(
            add={**base.add, **self.add},
            cap=cap,
            floor=floor,
            ablate=tuple(dict.fromkeys((*base.ablate, *self.ablate))),
            layers=self.layers if base.is_empty and self.layers else base.layers,
            prompt=self.prompt or base.prompt,
            probe=self.probe or base.probe,
        )

    def clipped(self, most: float) -> Plan:
        """Return the plan with its doses scaled down so that they come to at most `most`."""
        if self.dose <= most:
            return self
        # Shares of the largest dose: the sum of the doses themselves may be too large for a float.
        largest = max(map(abs, self.add.values()))
        shares = dataclasses.replace(self, add={k: v / largest for k, v in self.add.items()})
        scale = most / shares.dose
        return dataclasses.replace(shares, add={k: v * scale for k, v in shares.add.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON data without its empty parts."""
        fields = dataclasses.asdict(self)
        return {key: value for key, value in fields.items() if value}
