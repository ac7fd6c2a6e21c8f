"""Measures elapsed time across restarts and changes of the clock.

Time is told by two clocks, and the one that says more has passed is believed: after a clock was set
what waits for a time may come early, never late.
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
        """Return the moment that it is."""
        return Moment(time.time(), time.monotonic(), self._name)


def elapsed(since: Moment, now: Moment) -> float:
    """Return the seconds between two moments, the most that either clock says.

    Over a restart only the wall clock is left; where that ran backwards nothing is known: infinite.
    """
    wall = now.wall - since.wall
    if since.clock == now.clock:
        return max(wall, now.uptime - since.uptime)
    return wall if wall >= 0 else math.inf
