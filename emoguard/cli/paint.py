"""Colours scores on a terminal, dark or light."""

from __future__ import annotations

from rich.color import Color
from rich.style import Style
from rich.text import Text

from emoguard import reporttable
from emoguard.colour import ABOVE, BELOW, background
from emoguard.reporttable import printable


def tint(z: float | None) -> Style:
    """Return white on a background that shows the distance of z from ordinary."""
    colour = background(z)
    if colour is None:
        return Style()
    return Style(color=Color.from_rgb(255, 255, 255), bgcolor=Color.from_rgb(*colour))


def legend(label: str) -> Text:
    """Return one line that explains the colours."""
    line = Text().append(f"{printable(label)}: ", "bold")
    for z in (-2.0, -1.2, -0.6):
        line.append(f" {z:+.1f} ", tint(z))
    line.append(" ordinary ")
    for z in (0.6, 1.2, 2.0):
        line.append(f" {z:+.1f} ", tint(z))
    return line.append("  standard deviations", "dim")


def place(rank: float | None) -> Text:
    """Return the bar of a rank in [0, 1] in colour."""
    before, mark, after = reporttable.bar(rank)
    if rank is None:
        return Text(mark, "dim")
    is_above = round(rank * (reporttable.WIDTH - 1)) > reporttable.WIDTH // 2
    style = Style(color=Color.from_rgb(*(ABOVE if is_above else BELOW)[1]), bold=True)
    return Text(before, "dim").append(mark, style).append(after, "dim")
