"""`emoguard dose`: measures the effect of steering along a label on generated text."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from emoguard import keptfile, regularfile
from emoguard.cli.bars import Bars, follow
from emoguard.cli.models import MODEL
from emoguard.cli.paths import check_out
from emoguard.cli.probes import check_calibrated, guard_for
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.extras import install_command
from emoguard.fit.corpora import recorded_labels
from emoguard.fit.textonly import vader
from emoguard.runtime.openers import batching, open_speaker
from emoguard.study.dose import DoseResult, Effect, Judge, LabelResult, measure
from emoguard.study.printed import number
from emoguard.study.protocol import check_distinct
from emoguard.study.stage import SpeakerStage
from emoguard.validate.plots import find_pyplot, save_figure

if TYPE_CHECKING:
    from emoguard.guard import Guard


MARKS = {"repetitive": "o", "broken": "x"}
"""Marks doses whose texts no longer read like the model's own."""


@click.command(short_help="Measure the effect of steering on generated text.")
@MODEL
@click.option("--probe", help="A probe file; default: the shipped one that fits.")
@click.option("--label", "labels", multiple=True, help="Label to measure; default: happy, sad.")
@click.option("--prompts", "file", help="Openings to continue, one per line; default: built in.")
@click.option("--count", type=click.IntRange(4), default=80, show_default=True, help="Openings.")
@click.option(
    "--random",
    "randoms",
    type=click.IntRange(0, 999),
    default=99,
    show_default=True,
    help="Random directions to compare with.",
)
@click.option(
    "--tokens",
    type=click.IntRange(4),
    default=24,
    show_default=True,
    help="Most tokens per text.",
)
@click.option(
    "--judge",
    "judge_name",
    default="vader",
    show_default=True,
    help="The judge of a text: vader, or a function as module:function.",
)
@click.option("--json", "json_path", help="Write all measurements to this file.")
@click.option("--plot", "plot_path", help="Write a picture to this file (.png).")
def dose(
    *,
    path: str,
    probe: str | None,
    labels: tuple[str, ...],
    file: str | None,
    count: int,
    randoms: int,
    tokens: int,
    judge_name: str,
    json_path: str | None,
    plot_path: str | None,
) -> None:
    """Compare steered with unsteered text, against random directions of the same dose.

    Half of the prompts choose the dose, the other half tests it. The judge scores the text alone.
    The model runs in a runtime that takes one plan per row of a batch; GGUF files are dequantised
    for it.
    """
    check_distinct("labels", labels)
    judge = find_judge(judge_name)
    # Impossible options are refused now, not after an hour.
    if plot_path:
        find_pyplot()
        check_out("--plot", plot_path, ".png")
    if json_path:
        check_out("--json", json_path)
    openings = read_openings(file, count)
    runtime = batching(path)
    speaker = open_speaker(path, runtime)
    guard = guard_for(speaker, probe, path)
    signed = signs(guard, labels or ("happy", "sad"))
    check_calibrated(guard, probe, speaker.door.identity, path, runtime)
    stage = SpeakerStage(speaker, guard, randoms=randoms, tokens=tokens)
    with Bars() as progress:
        result = measure(stage, judge, openings, signed, progress=follow(progress))
    Screen().print(table(result, judge_name))
    if json_path:
        about = {"model": Path(path).name, "probe": guard.probe.name, "judge": judge_name}
        write({**about, "tokens": tokens, **as_dict(result)}, json_path)
    if plot_path:
        plot(result, Path(plot_path), Path(path).name, judge_name)


def as_dict(result: DoseResult) -> dict[str, Any]:
    """Return a result as plain JSON data, with the regime of each dose."""
    fields = dataclasses.asdict(result)
    for label, record in zip(result.labels, fields["labels"], strict=True):
        for part in ("curve", "test", "default"):
            for effect, written in zip(getattr(label, part), record[part], strict=True):
                written["regime"] = effect.regime
    return fields


def write(data: dict[str, Any], path: str) -> None:
    """Write the measurements.

    Raises:
        EmoGuardError: the file cannot be written.

    """
    try:
        keptfile.replace(path, json.dumps(data, indent=1) + "\n")
    except OSError as error:
        raise EmoGuardError(f"{path} cannot be written: {error.strerror}") from error


def find_judge(name: str) -> Judge:
    """Return the compound scorer of VADER, or a function given as module:function.

    Raises:
        EmoGuardError: the function cannot be loaded.

    """
    if name == "vader":
        try:
            return vader()
        except ModuleNotFoundError as error:
            raise EmoGuardError(
                f"judging with VADER needs vaderSentiment: {install_command('vaderSentiment')}"
            ) from error
    module, _, function = name.partition(":")
    try:
        judge = getattr(importlib.import_module(module), function)
        tried = float(judge("The sun is out."))  # now, and not after an hour
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise EmoGuardError(
            f"--judge takes vader or module:function, a text to a number, got {name} ({error})"
        ) from error
    if not math.isfinite(tried):
        raise EmoGuardError(f"--judge {name}: wanted a number for a plain sentence, got {tried}")
    return lambda text: float(judge(text))


def read_openings(file: str | None, count: int) -> list[str]:
    """Return `count` openings of stories: from a file, else those that come with EmoGuard."""
    shipped = files("emoguard.fit") / "prompts" / "openings.txt"
    try:
        texts = regularfile.lines(file) if file else shipped.read_text("utf-8").split("\n")
        lines = [line.strip() for line in texts if line.strip()]
    except OSError as error:
        raise EmoGuardError(f"prompts {file} cannot be read: {error}") from error
    if len(lines) < count:
        raise EmoGuardError(
            f"wanted {count} prompts, {file or 'the built-in file'} has {len(lines)}: "
            "give a longer file, or --count"
        )
    return lines[:count]


def signs(guard: Guard, labels: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return each label with the expected sign of its effect on pleasantness; 1 without valence."""
    guard.probe.indices(labels)
    known = {label.name: label.valence for label in recorded_labels(guard.probe.recipe)}
    return [(label, 1 if known.get(label, 1) >= 0 else -1) for label in labels]


def table(result: DoseResult, judge: str) -> Table:
    """Return the test of every label: at the chosen dose, flipped, and at the default bound."""
    title = (
        f"change of {judge} score; {result.prompts // 2} prompts, "
        f"{result.randoms} random directions of the same dose"
    )
    grid = Table(title=title, title_justify="left")
    for column in (
        "label",
        "dose",
        "effect [95 %]",
        "random, central 95 %",
        "p",
        "perplexity ratio",
        "regime",
    ):
        grid.add_column(column, justify="left" if column == "label" else "right")
    for label in result.labels:
        for n, effect in enumerate((*label.test, *label.default)):
            grid.add_row(label.label if n == 0 else "", *_cells(effect), end_section=n == 3)
    return grid


def _cells(effect: Effect) -> tuple[str, ...]:
    null, p, within = "-", "-", effect.bound <= abs(effect.dose)
    if effect.p is not None:
        null, p = f"{effect.random_low:+.3f} … {effect.random_high:+.3f}", f"{effect.p:.2f}"
    return (
        f"{effect.dose:+.2f}" + (f" within {effect.bound:g}" if within else ""),
        f"{effect.effect:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]",
        null,
        p,
        number(effect.perplexity_ratio),
        effect.regime,
    )


def plot(result: DoseResult, path: Path, model: str, judge: str) -> None:
    """Draw dose against effect for each label, beside the effects of random directions."""
    pyplot = find_pyplot()
    figure, axes = pyplot.subplots(
        1, len(result.labels), figsize=(5 * len(result.labels), 4), sharey=True, squeeze=False
    )
    for axis, label in zip(axes[0], result.labels, strict=True):
        _draw(axis, label)
    axes[0][0].set_ylabel(f"change of {judge} score")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(f"{model}: steered minus unsteered text")
    figure.tight_layout()
    try:
        save_figure(figure, path)
    except (OSError, ValueError) as error:
        raise EmoGuardError(f"picture {path} cannot be written: {error}") from error
    finally:
        pyplot.close(figure)


def _draw(axis: Any, label: LabelResult) -> None:
    doses, effects = [e.dose for e in label.curve], [e.effect for e in label.curve]
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.fill_between(doses, [e.low for e in label.curve], [e.high for e in label.curve], alpha=0.2)
    axis.plot(doses, effects, marker="o", label="first half of the prompts, 95 %")
    for n, effect in enumerate((*label.test, *label.default)):
        if effect.random_low is not None and effect.random_high is not None:
            axis.plot(
                [effect.dose] * 2,
                [effect.random_low, effect.random_high],
                color="grey",
                linewidth=6,
                alpha=0.4,
                label="random directions, central 95 %" if n == 0 else None,
            )
        axis.errorbar(
            effect.dose,
            effect.effect,
            [[effect.effect - effect.low], [effect.high - effect.effect]],
            color="black",
            marker="s" if n < 2 else "^",
            capsize=3,
            label=("tested on the second half", None, "the same at the default bound", None)[n],
        )
    for effect in label.curve:
        if effect.regime != "surgical":
            axis.plot(effect.dose, effect.effect, MARKS[effect.regime], color="red", markersize=6)
    axis.set_title(f"{label.label} (chosen dose {label.chosen:g})", fontsize=10)
    axis.set_xlabel("dose (red: o repetitive, x broken)")
