"""`emoguard show`: lists shipped probes, or the contents of a probe file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from emoguard.cli.probes import open_probe
from emoguard.cli.screen import Screen
from emoguard.probe.calibration import Calibration
from emoguard.probe.probe import Probe
from emoguard.probe.shipped import shipped_files
from emoguard.reporttable import caveat, printable


@click.command(short_help="Show what a probe file holds.")
@click.argument("probe", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(probe: str | None, as_json: bool) -> None:
    """Show the labels, layers and recipe of PROBE; default: list the shipped probes.

    PROBE is a file or the name of a shipped probe.
    """
    described = [describe(probe)] if probe else [describe(name) for name in shipped_files()]
    console = Screen()
    if as_json:
        click.echo(json.dumps(described[0] if probe else described, indent=2))
    elif probe:
        _print_one(console, described[0])
    else:
        _print_list(console, described)


def describe(name: str) -> dict[str, Any]:
    """Return the description of a probe file, without its arrays, as plain data."""
    probe, calibrations, size = open_probe(name)
    return {
        "source": name,
        "name": probe.name,
        "bytes": size,
        "architecture": probe.architecture,
        "model_layers": probe.model_layers,
        "hidden": probe.hidden,
        "layers": list(probe.layers),
        "labels": list(probe.labels),
        "axes": list(probe.axes),
        "recipe": dict(probe.recipe),
        "card": dict(probe.card),
        "cautions": list(probe.cautions),
        "provisional": probe.is_provisional,
        "calibrations": [_calibration(probe, c) for c in calibrations],
    }


def _calibration(probe: Probe, calibration: Calibration) -> dict[str, Any]:
    norms = zip(probe.layers, calibration.norms.tolist(), strict=True)
    return {
        "identity": dataclasses.asdict(calibration.identity),
        "digest": calibration.identity.digest,
        "responses": calibration.responses,
        "tokens": calibration.tokens,
        "reference_norms": {str(layer): norm for layer, norm in norms},
        "context": dict(calibration.context),
        "cautions": list(calibration.cautions),
    }


def _print_list(console: Screen, described: Sequence[Mapping[str, Any]]) -> None:
    if not described:
        console.print("No probe is shipped here. Make one with: emoguard fit")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("probe", no_wrap=True)
    for column in ("model", "labels", "layers", "calibrated", "size"):
        table.add_column(column, overflow="fold")
    for probe in described:
        files = [c["identity"]["quantisation"] for c in probe["calibrations"]]
        _add(
            table,
            probe["source"],
            probe["architecture"],
            str(len(probe["labels"])),
            ", ".join(map(str, probe["layers"])),
            ", ".join(files) or "nothing",
            _kib(probe["bytes"]),
        )
    console.print(table)
    console.print("Look into one with: emoguard show PROBE", style="dim")


def _print_one(console: Screen, probe: Mapping[str, Any]) -> None:
    emotions = [label for label in probe["labels"] if label not in probe["axes"]]
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    _add(table, "probe", f"{probe['name']}, {_kib(probe['bytes'])}")
    layers, hidden = probe["model_layers"], probe["hidden"]
    _add(table, "model", f"{probe['architecture']}, {layers} layers of width {hidden}")
    verdicts = probe["card"].get("verdicts")
    known = verdicts if isinstance(verdicts, Mapping) else {}
    _add(table, "labels", ", ".join(label + caveat(known.get(label)) for label in emotions))
    axes = ", ".join(label + caveat(known.get(label)) for label in probe["axes"])
    _add(table, "contrasts", axes or "none")
    _add(table, "layers", ", ".join(map(str, probe["layers"])))
    for caution in probe["cautions"]:
        _add(table, "caution", caution)
    for calibration in probe["calibrations"]:
        for caution in calibration["cautions"]:
            _add(table, f"caution: {calibration['identity']['quantisation']}", caution)
    for title in ("recipe", "card"):
        for key, value in probe[title].items():
            if key != "cautions" and not _is_nested(
                value
            ):  # the validation's measurements by label, which --json shows
                _add(table, f"{title}: {key}", _plain(value))
    console.print(table)
    _print_calibrations(console, probe["calibrations"])


def _print_calibrations(console: Screen, calibrations: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Calibrations", title_justify="left")
    for column in ("model file", "quantisation", "responses", "tokens", "context"):
        table.add_column(column, overflow="fold")
    for one in calibrations:
        _add(
            table,
            f"{one['identity']['name']} ({one['digest']})",
            one["identity"]["quantisation"],
            str(one["responses"]),
            str(one["tokens"]),
            _plain(one["context"]),
        )
    console.print(table if calibrations else "No calibration: scores will be raw projections.")


def _add(table: Table, *cells: str) -> None:
    """Add a row of untrusted texts: no markup, no control characters."""
    table.add_row(*(Text(printable(cell)) for cell in cells))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values())


def _kib(size: int) -> str:
    return f"{size // 1024} KiB"
