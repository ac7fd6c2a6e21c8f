"""Measures elapsed time across restarts and changes of the clock.

Two clocks are read, and the one that shows more elapsed time counts: after a clock was set, an
event that waits for a time may come early, never late.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """A point in time: `wall` in seconds since 1970, `uptime` on the monotonic clock `clock`."""

    wall: float
    uptime: float = 0.0
    clock: str = ""


class Clock:
    """Returns the current moment; monotonic times of two clocks are never compared."""

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex

    def __call__(self) -> Moment:
        """Return the current moment."""
        return Moment(time.time(), time.monotonic(), self._name)


def elapsed(since: Moment, now: Moment) -> float:
    """Return the seconds between two moments, the larger of the two clocks' values.

    Over a restart only the wall clock is left; if it ran backwards the result is infinite.
    """
    wall = now.wall - since.wall
    if since.clock == now.clock:
        return max(wall, now.uptime - since.uptime)
    return wall if wall >= 0 else math.inf
