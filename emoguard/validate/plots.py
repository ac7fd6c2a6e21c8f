"""Draws a validation: layer profile, transfer matrix, confusion, valence plane."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard import keptfile
from emoguard.errors import EmoGuardError
from emoguard.extras import install_command

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.validate.plane import Plane
    from emoguard.validate.validation import Validation

PLEASANT, UNPLEASANT, INK, MUTED = "#1a7f5a", "#b5452c", "#222222", "#888888"
PLACES = (
    ((6, 3), "left", "bottom"),
    ((-6, 3), "right", "bottom"),
    ((6, -3), "left", "top"),
    ((-6, -3), "right", "top"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
)
"""Places for a name beside its point: the offset in points of type, and the alignment."""


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib as a picture, whole or not at all.

    Raises:
        OSError: it cannot be written. ValueError: the name does not end like a picture's.

    """
    data = io.BytesIO()
    figure.savefig(data, dpi=150, format=path.suffix.removeprefix(".") or "png")
    keptfile.replace(path, data.getvalue())


def draw(result: Validation, folder: Path, title: str) -> list[str]:
    """Write the pictures into `folder` and return their file names.

    Raises:
        EmoGuardError: matplotlib is not installed, or a picture cannot be written.

    """
    pyplot = find_pyplot()
    makers = {
        "layers.png": _layers,
        "transfer.png": _transfer,
        "confusion.png": _confusion,
        "valence.png": _valence,
    }
    return save_each(pyplot, makers, folder, result, title)


def save_each(
    pyplot: Any, makers: Mapping[str, Callable[..., Any]], folder: Path, *result: Any
) -> list[str]:
    """Save the figures that `makers` draw of `result`, by file name; return the names written.

    A maker with nothing to draw returns None.

    Raises:
        EmoGuardError: a picture cannot be written.

    """
    written = []
    for name, make in makers.items():
        figure = make(pyplot, *result)
        if figure is None:
            continue
        try:
            save_figure(figure, folder / name)
        except OSError as error:
            raise EmoGuardError(f"{folder / name} cannot be written: {error}") from error
        finally:
            pyplot.close(figure)
        written.append(name)
    return written


def find_pyplot() -> Any:
    """Return matplotlib's pyplot, set to draw without a screen.

    Raises:
        EmoGuardError: matplotlib is not installed.

    """
    try:
        import matplotlib as mpl  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise EmoGuardError(f"pictures need matplotlib: {install_command('matplotlib')}") from error
    mpl.use("agg")
    return importlib.import_module("matplotlib.pyplot")


def bare(axis: Any) -> None:
    """Take the frame off a picture, but for the axes themselves."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _layers(pyplot: Any, result: Validation, title: str) -> Any:
    profile = result.profile
    if profile is None or result.left_out is None:
        return None
    figure, axis = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
    for layer in result.layers:
        axis.axvline(layer, color="#dddddd", linewidth=5, zorder=0)
    axis.plot(profile.layers, profile.areas, color=INK, marker="o", markersize=4)
    words = result.left_out.macro.words.value
    lines = [
        (profile.level, UNPLEASANT, "best layer under permuted labels, 95 %", "bottom"),
        (words, "#2c5fb5", "text alone", "bottom"),
        (0.5, MUTED, "chance", "top"),
    ]
    for height, colour, name, side in lines:
        axis.axhline(height, color=colour, linestyle="--", linewidth=1)
        axis.annotate(
            f"{name} {height:.2f}",
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3 if side == "bottom" else -3),
            textcoords="offset points",
            ha="right",
            va=side,
            color=colour,
            fontsize=8,
        )
    axis.set_xlabel("layer alone (grey: chosen by the recipe on everything)")
    axis.set_ylabel("macro AUROC on left-out corpora")
    axis.set_ylim(min(0.45, *profile.areas) - 0.02, max(*profile.areas, words) + 0.05)
    axis.set_title(title, fontsize=10)
    bare(axis)
    return figure


def _transfer(pyplot: Any, result: Validation, title: str) -> Any:
    names = list(result.corpora)
    cells = np.full((3, len(names), len(names)), np.nan)
    for column, test in enumerate(names):
        for row, train in enumerate(names):
            here = result.within[test] if row == column else result.pairs.get(train, {}).get(test)
            if here is not None:  # two corpora may have no two labels in common
                pair = here.macro
                cells[:, row, column] = pair.model.value, pair.words.value, pair.difference.value
    figure, axes = pyplot.subplots(
        1, 3, figsize=(3 + 2.7 * len(names), 1.5 + 0.7 * len(names)), layout="constrained"
    )
    titles = ("model", "text alone", "difference")
    for axis, values, name in zip(axes, cells, titles, strict=True):
        difference = name == "difference"
        _heat(
            axis,
            values,
            names,
            names,
            shown="{:+.2f}" if difference else "{:.2f}",
            colours=("RdBu_r", -0.4, 0.4) if difference else ("Greys", 0.5, 1.0),
        )
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("tested on")
    axes[0].set_ylabel("fitted on")
    figure.suptitle(f"{title}: macro AUROC (diagonal: topics held out)", fontsize=10)
    return figure


def _confusion(pyplot: Any, result: Validation, title: str) -> Any:
    counts = np.array(result.confusion, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.6 + 0.42 * len(counts)
    figure, axis = pyplot.subplots(figsize=(size + 0.8, size), layout="constrained")
    _heat(
        axis,
        shares,
        result.labels,
        result.labels,
        shown="{:.0%}",
        colours=("Greys", 0, max(0.5, shares.max())),
    )
    axis.set_xlabel("highest score")
    axis.set_ylabel("label of the text")
    axis.set_title(f"{title}: share of each label's texts, left out of the fit", fontsize=10)
    return figure


def _valence(pyplot: Any, result: Validation, title: str) -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    planes = result.plane, result.plane_words
    for axis, plane, name in zip(axes, planes, ("model", "word counts"), strict=True):
        _points(axis, plane, result)
        axis.set_title(
            f"{name}: |r| with the sign of valence {plane.correlation:.2f} "
            f"(permuted, 95 %: {plane.chance:.2f})",
            fontsize=9,
        )
    figure.suptitle(f"{title}: first two components of the labels' directions", fontsize=10)
    figure.draw_without_rendering()  # names are placed once the axes have their places
    for axis, plane in zip(axes, planes, strict=True):
        _names(axis, plane, result)
    return figure


def _colour(result: Validation, name: str) -> str:
    sign = result.signs[result.labels.index(name)]
    return {1: PLEASANT, -1: UNPLEASANT}.get(sign, INK)


def _points(axis: Any, plane: Plane, result: Validation) -> None:
    for name, (x, y) in plane.points.items():
        axis.plot(x, y, "o", color=_colour(result, name))
    axis.axhline(0, color="#dddddd", zorder=0)
    axis.axvline(0, color="#dddddd", zorder=0)
    axis.margins(x=0.28, y=0.15)
    axis.set_xlabel(f"first component ({plane.shares[0]:.0%})")
    axis.set_ylabel(f"second component ({plane.shares[1]:.0%})")
    bare(axis)


def _names(axis: Any, plane: Plane, result: Validation) -> None:
    """Write each name beside its point, where it covers no other name and no point."""
    bbox = importlib.import_module("matplotlib.transforms").Bbox
    corners = axis.transData.transform(list(plane.points.values())) - 5
    taken = [bbox.from_bounds(*corner, 10, 10) for corner in corners]  # pixels: a point is 8 wide
    for name, point in sorted(plane.points.items(), key=lambda item: item[1][1]):
        text = axis.annotate(
            name,
            point,
            xytext=PLACES[0][0],
            textcoords="offset points",
            color=_colour(result, name),
            fontsize=9,
            in_layout=False,
        )
        for offset, ha, va in (*PLACES, PLACES[0]):  # the first again, where none is free
            text.set(position=offset, ha=ha, va=va)
            if not text.get_window_extent().count_overlaps(taken):
                break
        taken.append(text.get_window_extent())


def _heat(
    axis: Any,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    shown: str,
    colours: tuple[str, float, float],
) -> None:
    palette, low, high = colours
    axis.imshow(values, cmap=palette, vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = palette == "Greys" and value > low + 0.52 * (high - low)
            axis.text(
                column, row, shown.format(value), ha="center", va="center", fontsize=8,
                color="white" if dark else INK,
            )  # fmt: skip
