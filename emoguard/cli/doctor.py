"""`emoguard doctor`: what is installed here, what can be read with it, and what is broken."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emoguard.cli.paint import printable
from emoguard.cli.probes import open_probe
from emoguard.errors import EmoGuardError
from emoguard.registry import EXTRAS, GROUP
from emoguard.shipped import shipped_files

DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python"}
"""Where a library's name on the index is not its import name."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `mark` is ok, absent (not needed) or broken."""

    part: str
    mark: str
    text: str


@click.command(short_help="Check what can be read here.")
@click.option("--model", "path", help="A GGUF file to try, in a child process.")
@click.pass_context
def doctor(ctx: click.Context, path: str | None) -> None:
    """Check what can be read here, and how; exit 1 when something is broken."""
    console = Console(highlight=False)
    with Console(stderr=True).status("looking"):
        findings = [*_runtimes(), *_probes(), *(_model(path) if path else ())]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("part", "state", "found"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "absent": "dim", "broken": "bold red"}
    for finding in findings:
        part, text = (Text(printable(s)) for s in (finding.part, finding.text))
        table.add_row(part, Text(finding.mark, colours[finding.mark]), text)
    console.print(table)
    if any(finding.mark == "broken" for finding in findings):
        ctx.exit(1)


def _runtimes() -> Iterator[Finding]:
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    findings = [finding for point in points for finding in _runtime(point)]
    yield from findings
    if not any(finding.mark == "ok" for finding in findings):
        extras = " or ".join(f"'emoguard[{extra}]'" for extra in EXTRAS.values())
        yield Finding("runtime", "broken", f"none works: pip install {extras}")


def _runtime(point: EntryPoint) -> Iterator[Finding]:
    try:
        found = version(DISTRIBUTIONS.get(point.name, point.name))
    except PackageNotFoundError:
        install = f"pip install 'emoguard[{EXTRAS.get(point.name, 'all')}]'"
        yield Finding(point.name, "absent", f"not installed: {install}")
        return
    try:
        plugin = importlib.import_module(point.value)
    except Exception as error:  # noqa: BLE001  (whatever an installation breaks with is the finding)
        yield Finding(point.name, "broken", f"{found}: {type(error).__name__}: {error}")
        return
    yield Finding(point.name, "ok", f"{found}, read by {point.value}")
    yield from _read_paths(point.name, _own_doctor(plugin))


def _own_doctor(plugin: ModuleType) -> Any:
    """Return a plug-in's module `doctor`, None where the plug-in has no read paths to tell."""
    name = f"{plugin.__name__}.doctor"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _read_paths(name: str, own: Any) -> Iterator[Finding]:
    if own is None:
        return
    told = own.runtime()
    callback = str(told["callback"])
    yield Finding(f"{name} callback", "ok" if callback == "works" else "broken", callback)
    native = ", ".join(told["native"]) or f"no architecture is checked with {told['version']}"
    yield Finding(f"{name} native", "ok" if told["native"] else "absent", native)


def _probes() -> Iterator[Finding]:
    for name in shipped_files():
        try:
            probe, calibrations, _ = open_probe(name)
        except EmoGuardError as error:
            yield Finding(f"probe {name}", "broken", str(error))
            continue
        files = ", ".join(c.identity.quantisation for c in calibrations) or "nothing"
        labels = len(probe.labels)
        yield Finding(f"probe {name}", "ok", f"{labels} labels, calibrated for {files}")
    if not shipped_files():
        yield Finding("probes", "absent", "none is shipped here: emoguard fit makes one")


def _model(path: str) -> Iterator[Finding]:
    (point,) = entry_points(group=GROUP, name="llama_cpp")
    told = importlib.import_module(f"{point.value}.doctor").examine(path)
    name = Path(path).name
    if told["error"]:
        yield Finding(name, "broken", str(told["error"]))
        return
    size = f"{told['layers']} layers of {told['hidden']}"
    yield Finding(name, "ok", f"{told['architecture']}, {size}, {told['quantisation']}")
    native, callback = str(told["native"]), str(told["callback"])
    yield Finding("native read", "ok" if native == "allowed" else "absent", native)
    # One path is enough: only a file that neither can read is beyond help.
    spare = "absent" if native == "allowed" else "broken"
    yield Finding("callback read", "ok" if callback == "works" else spare, callback)
