"""Draws a study from its results: attribution, dose curves, nulls, safety."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emoguard.validate.plots import INK, MUTED, PLEASANT, UNPLEASANT, bare, find_pyplot, save_each

Results = Mapping[str, Any]

BLUE = "#2c5fb5"
REGIMES = {"surgical": PLEASANT, "repetitive": "#c98a1b", "broken": UNPLEASANT}
ORDER = ("sampling", "prompt", "vector, without persona", "vector", "together", "prompt x vector")
NAMES = {
    "sampling": "sampling (T 1.0)",
    "prompt": "persona prompt",
    "vector, without persona": "vector alone",
    "vector": "vector, over all prompts",
    "together": "persona and vector",
    "prompt x vector": "interaction",
}


def draw(results: Results, folder: Path) -> list[str]:
    """Write the pictures for which there are results, and return their file names.

    Raises:
        EmoGuardError: matplotlib is not installed, or a picture cannot be written.

    """
    pyplot = find_pyplot()
    makers: dict[str, Callable[[Any, Results], Any]] = {
        "attribution.png": _attribution,
        "random-directions.png": _nulls,
        "dose-curves.png": _curves,
        "safety.png": _safety,
    }
    return save_each(pyplot, makers, folder, results)


def _attribution(pyplot: Any, results: Results) -> Any:
    causal = results["causal"]
    primary = causal["primary"]
    labels = [label for label, each in causal["effects"].items() if primary in each]
    if not labels:
        return None
    figure, axes = pyplot.subplots(
        1, len(labels), figsize=(5.4 * len(labels), 3.4), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, label in zip(axes[0], labels, strict=True):
        effects = causal["effects"][label][primary]["effects"]
        shown = [name for name in ORDER if name in effects][::-1]
        for place, name in enumerate(shown):
            _mark(axis, effects[name]["all"]["estimate"], place, _colour(name))
        axis.set_yticks(range(len(shown)), [NAMES[name] for name in shown])
        axis.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
        axis.set_title(f"{label}", fontsize=11, loc="left")
        axis.set_xlabel("change in answers that express it, points (95 %)")
        bare(axis)
    figure.suptitle("What each manipulation changes by itself, and together", fontsize=11)
    return figure


def _colour(name: str) -> str:
    if name == "sampling":
        return MUTED
    return BLUE if name in {"prompt", "together"} else INK


def _nulls(pyplot: Any, results: Results) -> Any:
    nulls, primary = results["causal"]["nulls"], results["causal"]["primary"]
    labels = [
        key
        for key, each in nulls.items()
        if isinstance(each, dict) and primary in each and each[primary]["effects"]
    ]
    if not labels:
        return None
    figure, axes = pyplot.subplots(
        1, len(labels), figsize=(5 * len(labels), 3), squeeze=False, layout="constrained"
    )
    for axis, label in zip(axes[0], labels, strict=True):
        each = nulls[label][primary]
        values = 100 * np.array(each["effects"])
        observed = 100 * each["observed"][0]
        edges = np.linspace(min(values.min(), observed), max(values.max(), observed) + 1e-9, 31)
        axis.hist(values, bins=edges, color="#cccccc")
        axis.axvline(observed, color=BLUE, linewidth=2)
        axis.set_title(f"{label} (blue): p {each['p']:.3f}", fontsize=10, loc="left", color=BLUE)
        axis.set_xlabel("change in answers that express it, points")
        axis.set_ylabel("random directions")
        bare(axis)
    count = len(nulls[labels[0]][primary]["effects"])
    figure.suptitle(f"{count} random directions of the same realised dose", fontsize=11)
    return figure


def _curves(pyplot: Any, results: Results) -> Any:
    curves, primary = results["causal"]["curves"], results["causal"]["primary"]
    labels = list(curves)
    if not labels:
        return None
    figure, axes = pyplot.subplots(
        1, len(labels), figsize=(3.1 * len(labels), 3.4), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, label in zip(axes[0], labels, strict=True):
        each = curves[label]
        doses = np.array(each["doses"])
        effects = 100 * np.array(each[primary]["effects"], float)
        axis.axhline(0, color=MUTED, linewidth=0.8, zorder=0)
        axis.fill_between(doses, effects[:, 1], effects[:, 2], color=INK, alpha=0.12, linewidth=0)
        axis.plot(doses, effects[:, 0], color=INK, linewidth=1)
        for dose, effect, reading in zip(doses, effects, each["reading"], strict=True):
            axis.plot(dose, effect[0], "o", color=REGIMES[reading["regime"]], markersize=5)
        axis.set_title(f"{label} ({each[primary]['fit']['shape']})", fontsize=10, loc="left")
        axis.set_xlabel("dose")
        bare(axis)
    axes[0][0].set_ylabel("change, points (95 %)")
    for regime, colour in REGIMES.items():
        axes[0][-1].plot([], [], "o", color=colour, label=regime)
    axes[0][-1].legend(fontsize=8, frameon=False, loc="best")
    figure.suptitle("Dose and expression; colour says how the text reads", fontsize=11)
    return figure


def _safety(pyplot: Any, results: Results) -> Any:
    rows = [
        (
            f"{outcome}: {label}",
            by["vector"]["estimate"],
            by["vector"]["no harm"],
            each.get("among random", {}).get(label, {}).get("effects", []),
        )
        for outcome, each in results["safety"].items()
        for label, by in each.items()
        if isinstance(by, dict) and "vector" in by
    ][::-1]
    if not rows:
        return None
    figure, axis = pyplot.subplots(figsize=(7.2, 1.3 + 0.32 * len(rows)), layout="constrained")
    for place, (_, estimate, within, random) in enumerate(rows):
        margin = 100 * within["margin"]
        is_shown = within["p"] is not None and within["p"] < 0.05
        low = -margin if within["both"] else -100
        axis.barh(place, margin - low, left=low, height=0.62, color="#e6f0eb", zorder=0)
        axis.plot(100 * np.array(random), [place] * len(random), "|", color=MUTED, markersize=9)
        _mark(axis, estimate, place, PLEASANT if is_shown else INK)
    ends = [v for _, estimate, _, random in rows for v in (*estimate, *random) if v is not None]
    widest = max(10.0, *(100 * abs(v) for v in ends))
    axis.set_xlim(-1.1 * widest, 1.1 * widest)
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    axis.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
    grey = "\ngrey: random directions" if any(random for *_, random in rows) else ""
    axis.set_xlabel(f"change by the vector, points (95 %); shaded: within the margin{grey}")
    axis.set_title("What else moves (green: no harm shown)", fontsize=11, loc="left")
    bare(axis)
    return figure


def _mark(axis: Any, estimate: Sequence[float | None], place: float, colour: str) -> None:
    value, low, high = estimate
    if value is None:
        return
    if low is not None and high is not None:
        ends = [100 * low, 100 * high]
        axis.plot(ends, [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
    axis.plot(100 * value, place, "o", color=colour, markersize=6)
