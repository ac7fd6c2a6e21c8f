"""Colours for scores, legible on dark and on light terminals."""

from __future__ import annotations

import math

from rich.color import Color
from rich.style import Style
from rich.text import Text

from emoguard.cli.screen import printable

RGB = tuple[int, int, int]

ABOVE: tuple[RGB, RGB] = ((122, 106, 92), (206, 72, 0))
BELOW: tuple[RGB, RGB] = ((92, 108, 124), (18, 92, 216))
QUIET = 0.3
"""Smaller |z| stays uncoloured."""
FULL = 2.0
"""Larger |z| gets no stronger colour."""


def tint(z: float | None) -> Style:
    """Return white on a background that says how far z lies above or below ordinary.

    Weak scores differ in saturation, not in lightness: all shades stand out about equally from a
    black and from a white terminal, and white text on them keeps a contrast of at least 4.5.
    """
    if z is None or not math.isfinite(z) or abs(z) < QUIET:
        return Style()
    weak, strong = ABOVE if z > 0 else BELOW
    share = min(1.0, (abs(z) - QUIET) / (FULL - QUIET))
    mixed = [round(a + (b - a) * share) for a, b in zip(weak, strong, strict=True)]
    return Style(color=Color.from_rgb(255, 255, 255), bgcolor=Color.from_rgb(*mixed))


def signed(z: float | None) -> str:
    """Return z in four characters, for standing under or beside a word."""
    if z is None or not math.isfinite(z):
        return "   -"
    text = f"{max(-9.9, min(9.9, z)):+.1f}"
    return " 0.0" if text in ("+0.0", "-0.0") else text


def legend(label: str) -> Text:
    """Return one line that explains the colours."""
    line = Text().append(f"{printable(label)}: ", "bold")
    for z in (-2.0, -1.2, -0.6):
        line.append(f" {z:+.1f} ", tint(z))
    line.append(" ordinary ")
    for z in (0.6, 1.2, 2.0):
        line.append(f" {z:+.1f} ", tint(z))
    return line.append("  standard deviations", "dim")


def place(rank: float | None, width: int = 21) -> Text:
    """Return `rank` in [0, 1] as a bar that grows from the middle of a track."""
    if rank is None:
        return Text("-", "dim")
    middle, end = width // 2, round(rank * (width - 1))
    style = Style(color=Color.from_rgb(*(ABOVE if end > middle else BELOW)[1]), bold=True)
    low, high = sorted((middle, end))
    track = Text("─" * low, "dim")
    track.append("┿" if low == high else "━" * (high - low + 1), style)
    return track.append("─" * (width - 1 - high), "dim")
