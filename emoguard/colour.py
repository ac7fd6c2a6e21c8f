"""Colours scores: the distance of z from ordinary, as a background behind white text."""

from __future__ import annotations

import math

RGB = tuple[int, int, int]

ABOVE: tuple[RGB, RGB] = ((122, 106, 92), (206, 72, 0))
BELOW: tuple[RGB, RGB] = ((92, 108, 124), (18, 92, 216))
"""The background of a weak and of a strong score."""
QUIET = 0.3
"""Smaller |z| stays uncoloured."""
FULL = 2.0
"""Larger |z| gets no stronger colour."""


def background(z: float | None) -> RGB | None:
    """Return the background for white text that shows z, None if z is ordinary or missing.

    Weak scores differ in saturation, not in lightness: all shades stand out about equally from a
    black and from a white screen, and white text on them keeps a contrast of at least 4.5.
    """
    if z is None or not math.isfinite(z) or abs(z) < QUIET:
        return None
    weak, strong = ABOVE if z > 0 else BELOW
    share = min(1.0, (abs(z) - QUIET) / (FULL - QUIET))
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(weak, strong, strict=True))
    return red, green, blue
