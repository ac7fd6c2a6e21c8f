"""`emoguard demo`: three answers of a small model, every token with its score."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping

import click
from rich import box
from rich.table import Table
from rich.text import Text

import emoguard
from emoguard import keptfile
from emoguard.cli.interlinear import Interlinear
from emoguard.cli.models import demo_model
from emoguard.cli.paint import legend, tint
from emoguard.cli.paths import check_out
from emoguard.cli.probes import coloured_label, guard_for
from emoguard.cli.screen import Screen
from emoguard.cli.stream import respond
from emoguard.errors import EmoGuardError
from emoguard.records import Report
from emoguard.reporttable import printable, signed
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Prompt, Speaker
from emoguard.runtime.watch import Watch

PROMPTS: Mapping[str, str] = {
    "joy": "Describe a joyful birthday party.",
    "panic": "Describe a panic attack.",
    "neutral": "Explain how to boil an egg.",
}
WIDTH = 96
TOKENS = 44

MEANING = """\
Each token is coloured by the model's own state while it chose that token:
the position of its residual stream along a direction that separates texts about emotions.
A direction is not a feeling: this measures a representation and says nothing about experience."""

CODE = """\
import emoguard, llama_cpp
llm = llama_cpp.Llama("model.gguf")       # or a Transformers model
with emoguard.watch(llm) as watch:        # or (llm, probe="yours.safetensors")
    llm("Hello"); print(watch.reports[-1])"""


@click.command(short_help="Watch a small model answer.")
@click.option("--label", help="The label that colours the text; default: valence.")
@click.option("--probe", help="A probe file; default: the shipped one.")
@click.option("--svg", type=click.Path(dir_okay=False), help="Also save a picture of the output.")
def demo(label: str | None, probe: str | None, svg: str | None) -> None:
    """Watch a small model answer three prompts, every token with its score."""
    console = Screen()
    if svg:
        check_out("--svg", svg)
        console = Screen(
            highlight=False, record=True, width=WIDTH, force_terminal=True, color_system="truecolor"
        )
    play(console, label, probe)
    if svg:
        # Without rich's web fonts: a picture in a README must fetch nothing.
        picture = re.sub(r"(?s)@font-face \{.*?\}", "", console.export_svg(title="emoguard demo"))
        try:
            keptfile.replace(svg, picture)
        except OSError as error:
            raise EmoGuardError(f"{svg} cannot be written: {error.strerror}") from error


def play(console: Screen, label: str | None, probe: str | None) -> None:
    """Run the whole demo on `console`."""
    path = demo_model()
    with contextlib.ExitStack() as stack:
        with Screen(stderr=True).status("opening the model"):
            # With a thread on every core each token waits for the last one to be scheduled: half
            # of them are faster as soon as anything else runs.
            speaker = open_speaker(path, threads=max(1, (os.cpu_count() or 1) // 2))
            guard = guard_for(speaker, probe, str(path))
            column = coloured_label(guard, label)
            watch = stack.enter_context(emoguard.attach(speaker.model, guard, **speaker.options))
        console.print(Text(f"{path.name}, read at every token", "bold"))
        console.print(legend(guard.labels[column]))
        reports = {
            name: _answer(console, speaker, watch, column, text) for name, text in PROMPTS.items()
        }
    console.print(_comparison(reports, guard.probe.axes))
    console.print(Text(printable(_cost(reports)), "dim"))
    console.print(Text(f"\n{MEANING}\n"))
    console.print(Text("On your own model:", "bold"))
    console.print(Text(CODE), soft_wrap=True)


def _answer(console: Screen, speaker: Speaker, watch: Watch, column: int, text: str) -> Report:
    console.print(Text(f"\n▸ {text}", "bold"))
    lines = Interlinear(console, column, min(WIDTH, console.width))
    prompt = Prompt(text, max_tokens=TOKENS, temperature=0.0)
    _, report = respond(speaker, watch, prompt, lines.show)
    lines.flush()
    return report


def _comparison(reports: Mapping[str, Report], axes: tuple[str, ...]) -> Table:
    """Return a table of the mean z of every label in every answer."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="\nMean score of each answer")
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("label")
    for name in reports:
        table.add_column(name, justify="right", min_width=9)
    labels = list(next(iter(reports.values())).scores)
    for label in [*(x for x in labels if x not in axes), *axes]:
        means = [r.scores[label].mean if label in r.scores else None for r in reports.values()]
        table.add_row(Text(printable(label)), *(Text(f" {signed(z)} ", tint(z)) for z in means))
    return table


def _cost(reports: Mapping[str, Report]) -> str:
    read = sum(report.tokens_scored for report in reports.values())
    generated = sum(report.completion_tokens for report in reports.values())
    each = 1000 * sum(report.overhead_seconds for report in reports.values()) / max(1, read)
    last = list(reports.values())[-1]
    return (
        f"{read} of {generated} tokens read at {each:.2f} ms each · {last.backend} · {last.probe}"
    )
