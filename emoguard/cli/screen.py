"""Writes to the terminal without control characters, or characters that it cannot show."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from emoguard.reporttable import printable

PLAIN = str.maketrans("─━┿▸…·≤≥", "-=|>.*<>")
"""Replacements of EmoGuard's own marks on terminals without them."""


class Screen(Console):
    """A console that shows text as it is: no markup, no control characters, no guessed colours.

    Text from a probe file, a log or a model is not trusted.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of something to show, their text made printable."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield Segment(self._shown(segment.text), segment.style)

    def _shown(self, text: str) -> str:
        text = printable(text)
        return text if self.encoding.startswith("utf") else text.translate(PLAIN)


def say(text: str, *, err: bool = False) -> None:
    """Print one line, made printable, that no terminal's width breaks."""
    click.echo(printable(text), err=err)


def replace_unencodable() -> None:
    """Show characters that the terminal's encoding lacks as ?, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
