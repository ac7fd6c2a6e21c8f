"""Defines the policy's sections on alarms and drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from emoguard.policy import schema
from emoguard.policy.interval import Interval


@dataclass(frozen=True)
class AlarmPolicy:
    """The section `alarms`: when a label fires, and the consequences.

    An alarm is an upward crossing of a label's calibrated threshold by the rolling mean of its z.
    """

    rate_per_1000_tokens: Annotated[float, Interval(above=0, most=1000)] = 1.0
    """Crossings that neutral responses may have per 1,000 response tokens, all labels together: the
    family rate, which is split evenly over the labels."""
    window_tokens: Annotated[int, Interval(least=1)] = 16
    """Tokens in the rolling mean. Shorter responses are `short` and never alarm."""
    hysteresis_sd: Annotated[float, Interval(least=0)] = 0.25
    """The next crossing counts once the rolling mean has fallen this far below its threshold, in
    units of z."""
    on_alert: Literal["report", "callback", "stop"] = "report"
    """`report`: counted and exported. `callback`: the guard's callback is called as well, outside
    the forward pass, with the label, all scores and the text of the window. `stop`: the response is
    ended at the next token."""

    def __post_init__(self) -> None:
        schema.check(self)


@dataclass(frozen=True)
class DriftPolicy:
    """The section `drift`: how far this site's traffic may move before an alarm."""

    tolerance_rank: Annotated[float, Interval(least=0, most=0.45)] = 0.1
    """The smallest shift worth an alert, of the mean rank of block means among the baseline's
    blocks, which is .5 while nothing changes."""
    arl_blocks: Annotated[int, Interval(least=1)] = 2000
    """Average run length: an unchanged stream alarms once in at least so many blocks, all labels
    together."""
    block_responses: Annotated[int, Interval(least=1)] = 50
    """Responses in a block, the unit of the two numbers above. Drift does not wait for the end of a
    block: it takes every response as it comes."""
    baseline: str | None = None
    """File of the traffic baseline that `emoguard baseline` writes; until it exists, drift reports
    that it is learning."""

    def __post_init__(self) -> None:
        schema.check(self)
