"""Writes a self-contained HTML page about a new probe: contents, verdicts, example readings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.colour import ABOVE, BELOW, FULL, QUIET, background

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.calibration import Calibration
    from emoguard.probe.certificate import Threshold
    from emoguard.probe.probe import Probe

LEAST, MOST = 0.4, 1.0
"""AUROC at the left and right end of a track."""

UNKNOWN = "-"


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt, and the text of each token of the answer with its z, (tokens, labels).

    `label` colours it first.
    """

    prompt: str
    pieces: Sequence[str]
    z: NDArray[np.float32]
    label: str


@dataclass(frozen=True)
class Step:
    """A next step for the user: a sentence, and its command."""

    text: str
    command: str


class _Page(Template):
    delimiter = "@"


def html(
    probe: Probe,
    calibration: Calibration,
    *,
    thresholds: Mapping[str, Threshold | None],
    cautions: Sequence[str],
    facts: Mapping[str, str],
    examples: Sequence[Example],
    steps: Sequence[Step],
) -> str:
    """Return the page. All text from files, models and corpora is escaped.

    `thresholds` are those of monitored labels, None if uncertified; `facts` are rows of the table
    about the probe.
    """
    identity = calibration.identity
    parts = {
        "title": escape(probe.name),
        "subtitle": escape(
            f"A probe for {identity.name} ({identity.architecture}, {identity.quantisation}), "
            f"calibrated on {calibration.responses} of its own answers."
        ),
        "notes": _notes(cautions),
        "facts": "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()),
        "verdicts": _verdicts(probe, thresholds),
        "layers": _layers(probe),
        "examples": _legend() + "".join(_example(probe, each) for each in examples),
        "commands": "\n".join(
            f"<p>{escape(each.text)}</p><pre>{escape(each.command)}</pre>" for each in steps
        ),
        "above": json.dumps(ABOVE),
        "below": json.dumps(BELOW),
        "quiet": json.dumps(QUIET),
        "full": json.dumps(FULL),
    }
    template = (files("emoguard.fit") / "page.html").read_text(encoding="utf-8")
    # `@media` and addresses are the template's own.
    return _Page(template).safe_substitute(parts)


def _notes(cautions: Sequence[str]) -> str:
    if not cautions:
        return ""
    items = "".join(f"<li>{escape(each)}</li>" for each in cautions)
    return f'<div class="note"><strong>Before you build on it</strong><ul>{items}</ul></div>'


def _verdicts(probe: Probe, thresholds: Mapping[str, Threshold | None]) -> str:
    evidence = probe.card.get("recipe")
    if not probe.verdicts or not isinstance(evidence, Mapping):
        return (
            "<p>Not judged: see the note above. Until <code>emoguard validate</code> has done it, "
            "take no score of this probe for more than a guess.</p>"
        )
    rows = [
        _row(label, probe, evidence.get(label, {}), thresholds.get(label, ""))
        for label in probe.labels
    ]
    return (
        f"<p>{escape(str(probe.card.get('rule', '')))}.</p>"
        '<p class="soft">Bar: AUROC on the corpora left out, with its 95 % interval, from '
        f"{LEAST:.1f} to {MOST:.1f}; chance is .5. Thin line: the text alone, without a model.</p>"
        '<div class="scroll"><table><thead><tr><th>label</th><th>verdict</th><th>told apart on '
        "another corpus</th><th>model</th><th>text alone</th><th>alarm from z</th></tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(
    label: str, probe: Probe, evidence: Mapping[str, Any], threshold: Threshold | str | None
) -> str:
    verdict = probe.verdicts.get(label)
    kind = {"usable": "usable", "weak": "", "untested": ""}.get(verdict or "", "not")
    transfer = evidence.get("transfer") or (None, None, None)
    words = evidence.get("words")
    alarm = threshold if isinstance(threshold, str) else "none certified"
    if threshold and not isinstance(threshold, str):
        alarm = f"{threshold.level:.2f}"
    return (
        f'<tr><td>{escape(label)}</td><td class="{kind}">{escape(verdict or UNKNOWN)}</td>'
        f"<td>{_track(transfer, words)}</td><td class=number>{_two(transfer[0])}</td>"
        f"<td class=number>{_two(words)}</td><td class=number>{escape(alarm or UNKNOWN)}</td></tr>"
    )


def _track(interval: Sequence[float | None], words: float | None) -> str:
    """Return a line with marks for an interval, its value and the floor of the text alone."""
    value, low, high = interval
    marks = ""
    if value is not None and low is not None and high is not None:
        left, width = _place(low), _place(high) - _place(low)
        marks += f'<i style="left:{left:.1f}%;width:{width:.1f}%"></i>'
        marks += f'<b style="left:{_place(value):.1f}%"></b>'
    if words is not None:
        marks += f'<u style="left:{_place(words):.1f}%"></u>'
    return f'<span class="track">{marks}</span>'


def _place(area: float) -> float:
    return 100 * min(1.0, max(0.0, (area - LEAST) / (MOST - LEAST)))


def _two(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _layers(probe: Probe) -> str:
    areas = probe.card.get("layer_auroc")
    bars = "".join(_bars(areas, probe.layers)) if isinstance(areas, Mapping) else ""
    chosen = ", ".join(map(str, probe.layers))
    chose = "named by you; the bars show" if probe.recipe.get("layers") else "chosen by"
    return (
        f"<p>Layers {chosen} of {probe.model_layers}, {chose} how well labels are told apart at "
        f'each on texts held out. Bars begin at chance.</p><div class="layers">{bars}</div>'
    )


def _bars(areas: Mapping[str, float | None], chosen: Sequence[int]) -> Iterator[str]:
    for layer, area in areas.items():
        height = 0 if area is None else 200 * max(0.0, area - 0.5)
        kind = ' class="chosen"' if int(layer) in chosen else ""
        title = f"layer {int(layer)}: {_two(area)}"
        yield f'<span{kind} style="height:{height:.1f}%" title="{title}"></span>'


def _legend() -> str:
    """Return one line that explains the colours."""
    shades = {z: background(z) for z in (-2.0, -1.2, -0.6, 0.6, 1.2, 2.0)}
    marks = [
        f'<s style="background-color:rgb{colour}">&nbsp;{z:+.1f}&nbsp;</s>'
        for z, colour in shades.items()
    ]
    marks.insert(3, " ordinary ")
    return (
        "<p class=soft>The model's own answers, every token in the colour of its score, in "
        f"standard deviations: <span class=legend>{''.join(marks)}</span></p>"
    )


def _example(probe: Probe, example: Example) -> str:
    column = probe.labels.index(example.label)
    options = "".join(
        f"<option{' selected' if n == column else ''}>{escape(label)}</option>"
        for n, label in enumerate(probe.labels)
    )
    tokens = "".join(
        _token(piece, row, column) for piece, row in zip(example.pieces, example.z, strict=True)
    )
    return (
        f'<div class="example"><p class="soft">{escape(example.prompt)}</p><p>{tokens}</p>'
        f"<label class=soft>coloured by <select>{options}</select></label></div>"
    )


def _token(piece: str, row: NDArray[np.float32], column: int) -> str:
    colour = background(float(row[column]))
    style = f' style="background-color:rgb{colour}"' if colour else ""
    values = " ".join(f"{value:.2f}" for value in row.tolist())
    return f'<s data-z="{values}"{style} title="{row[column]:+.2f}">{escape(piece)}</s>'
