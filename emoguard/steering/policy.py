"""Defines the policy's section on steering."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from emoguard.errors import EmoGuardError
from emoguard.policy import schema
from emoguard.policy.interval import Interval
from emoguard.steering.plan import CEILING, Plan


@dataclass(frozen=True)
class SteeringPolicy:
    """The section `steering`: the bound, and the plan of every response."""

    max_dose_ratio: Annotated[float, Interval(above=0, most=CEILING)] = 0.1
    """The bound on ‖h' - h‖/‖h‖ of every token, all layers together."""
    plan: Plan = field(default_factory=Plan)
    """Applied to every response; a request's plan is laid over it and cannot loosen its limits."""
    on_excess: Literal["refuse", "clip"] = "refuse"
    """Treatment of a plan whose doses exceed the bound: refused before generation starts, or
    clipped, as the receipt shows."""
    on_fault: Literal["unsteered", "stop"] = "unsteered"
    """If steering fails during a response, the rest runs unsteered, or generation stops."""

    def __post_init__(self) -> None:
        schema.check(self)
        self.allow(Plan())

    def allow(self, plan: Plan) -> tuple[Plan, Plan | None]:
        """Return the plan to apply, laid over the standing one, and the requested if it differs.

        Raises:
            EmoGuardError: doses beyond the bound, unless the policy clips them.

        """
        whole = plan.over(self.plan)
        if whole.dose <= self.max_dose_ratio:
            return whole, None
        if self.on_excess == "refuse":
            raise EmoGuardError(
                f"the plan's doses come to {whole.dose:g}, the policy allows max_dose_ratio "
                f"{self.max_dose_ratio:g}: ask for less, or set on_excess: clip"
            )
        return whole.clipped(self.max_dose_ratio), whole
