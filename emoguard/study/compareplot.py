"""Draws a comparison: each label in both models, and the layers at which directions diverge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.validate.plots import INK, MUTED, bare, find_pyplot, save_figure

if TYPE_CHECKING:
    from emoguard.study.comparison import ModelComparison

SIDES = (("A", "#2c5fb5", 0.14), ("B", "#b5452c", -0.14))
"""Name, colour and place of each model's mark."""


def draw(comparison: ModelComparison, path: Path) -> None:
    """Write the picture to `path`.

    Raises:
        EmoGuardError: matplotlib is not installed, or the picture cannot be written.

    """
    pyplot = find_pyplot()
    height = 1.6 + 0.3 * len(comparison.separation)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, height), layout="constrained")
    _labels(left, comparison)
    _layers(right, comparison)
    figure.suptitle(f"A: {Path(comparison.a).name}    B: {Path(comparison.b).name}", fontsize=10)
    try:
        save_figure(figure, path)
    except OSError as error:
        raise EmoGuardError(f"{path} cannot be written: {error}") from error
    finally:
        pyplot.close(figure)


def _labels(axis: Any, comparison: ModelComparison) -> None:
    rows = list(comparison.separation.items())[::-1]
    for place, (_, each) in enumerate(rows):
        for (name, colour, shift), value in zip(SIDES, (each.a, each.b), strict=True):
            legend = f"model {name}" if place == 0 else None
            axis.plot([value.low, value.high], [place + shift] * 2, color=colour, linewidth=2)
            axis.plot(value.value, place + shift, "o", color=colour, markersize=5, label=legend)
        axis.plot(
            each.words.value, place, "|", color=INK, markersize=13,
            label="text alone" if place == 0 else None,
        )  # fmt: skip
    axis.axvline(0.5, color=MUTED, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.set_xlabel("AUROC on topics held out (dashed: chance)")
    axis.legend(fontsize=8, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.1), frameon=False)
    bare(axis)


def _layers(axis: Any, comparison: ModelComparison) -> None:
    numbers = np.arange(len(comparison.by_layer))
    for layer in comparison.layers:
        axis.axvline(layer, color="#dddddd", linewidth=5, zorder=0)
    axis.fill_between(
        numbers,
        [each.low for each in comparison.by_layer],
        [each.high for each in comparison.by_layer],
        color=INK,
        alpha=0.2,
        linewidth=0,
    )
    axis.plot(
        numbers, [each.value for each in comparison.by_layer], color=INK, marker="o", markersize=3
    )
    axis.plot(numbers, comparison.ceiling_by_layer, color=INK, linestyle=":", linewidth=1)
    axis.axhline(comparison.cosine_chance, color=MUTED, linestyle="--", linewidth=1)
    axis.set_ylim(min(0.0, *(each.low for each in comparison.by_layer)), 1.02)
    axis.set_xlabel(
        "layer (grey: compared at; band: without noise, 95 %;\n"
        "dotted: noise ceiling; dashed: shuffled labels, 95 % below)"
    )
    axis.set_ylabel("mean cosine of A with B")
    bare(axis)
