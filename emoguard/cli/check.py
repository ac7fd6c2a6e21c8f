"""`emoguard check`: explains a policy file in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click
from rich.table import Table

from emoguard import regularfile
from emoguard.advice import calibrate_command
from emoguard.cli.meaning import has_sink, meaning
from emoguard.cli.probes import open_probe
from emoguard.cli.screen import Screen, say
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.notices.expressive import expressive_words
from emoguard.notices.ledger import check_state
from emoguard.policy.policy import Policy
from emoguard.probe.shipped import shipped_files
from emoguard.records import Verdict
from emoguard.sinks.baseline import Baseline
from emoguard.sinks.open import check_places, check_sinks

LONGEST_PROMPT = 2**20
"""Bytes of the file of a system prompt."""

DOUBT = (
    "watched because the policy names them, but validation did not find them usable: their alarms "
    "say little"
)


@click.command(short_help="Say what a policy file means.")
@click.argument("file")
@click.option("--probe", help="A probe file or shipped probe that the policy should fit.")
@click.option("--system", help="The system prompt that is used in production: a text, or @FILE.")
@click.option(
    "--elsewhere", is_flag=True, help="It is for another machine: do not try its files and ports."
)
@click.pass_context
def check(
    ctx: click.Context, file: str, probe: str | None, system: str | None, *, elsewhere: bool
) -> None:
    """Explain the policy in FILE in words, or name its error (exit 1).

    Files, keys and ports in the policy are tried on this machine and left unchanged. With --probe
    its labels and plan are also checked against that probe; with --system it warns if a system
    prompt asks for emotional expression without a notice to users.
    """
    policy = Policy.load(file)
    opened = open_probe(probe) if probe is not None else None
    try:
        check_sinks(policy)
        rows = meaning(policy)
        rows += _prompted(policy, system or "")
        if opened is not None:
            # An unusable file of notices is one of the problems below.
            kept = dataclasses.replace(policy.notices, state=None)
            guard = Guard(opened[0], opened[1], dataclasses.replace(policy, notices=kept))
            rows += _fit(guard)
        else:
            guard = None
            rows += _shipped_verdicts(policy)
    except EmoGuardError as error:
        raise EmoGuardError(f"{file}: {error}") from error
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, words in rows:
        table.add_row(key, words)
    Screen().print(table)
    problems = [] if elsewhere else _problems(policy, guard)
    for problem in problems:
        say(f"emoguard: {file}: {problem}", err=True)
    if problems:
        ctx.exit(1)


def _prompted(policy: Policy, system: str) -> list[tuple[str, str]]:
    """Return a reminder if a system prompt strengthens expression without a notice of that.

    Raises:
        EmoGuardError: the named file cannot be read.

    """
    if system.startswith("@"):
        system = _text(system.removeprefix("@"))
    words = ", ".join(expressive_words(system)[:8])
    if policy.notices.prompted or not words:
        return []
    reminder = (
        f"the system prompt asks for emotional expression ({words}): users are told of it only "
        "with notices.prompted: true"
    )
    return [("prompted", reminder)]


def _text(path: str) -> str:
    try:
        return regularfile.read(path, LONGEST_PROMPT).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise EmoGuardError(f"the system prompt {path} cannot be read: {error}") from error


def _problems(policy: Policy, guard: Guard | None) -> list[str]:
    """Return the problems that would keep a process with this policy from starting here."""
    problems = check_places(policy)
    attempts: dict[str, Callable[[], None]] = {
        "notices.state": lambda: check_state(policy.notices.state),
        "drift.baseline": lambda: _check_baseline(policy, guard),
    }
    for key, attempt in attempts.items():
        try:
            attempt()
        except EmoGuardError as error:
            problems.append(f"{key}: {error}")
    return problems


def _check_baseline(policy: Policy, guard: Guard | None) -> None:
    """Raise if the drift monitor could not use the baseline; a missing one is fine."""
    path = policy.drift.baseline
    if not has_sink(policy, "drift") or path is None or not Path(path).exists():
        return
    baseline = Baseline.load(path)
    probe = baseline.probe if guard is None else guard.probe.name
    baseline.check_fits(baseline.identity, probe)
    baseline.columns(policy.labels if guard is None else guard.monitored)


def _fit(guard: Guard) -> list[tuple[str, str]]:
    """Return the fit of a policy to the guard's probe, and the alarms its calibrations certify.

    Raises:
        EmoGuardError: the policy does not fit the probe.

    """
    guard.check(guard.policy)
    rows = [("probe", f"{guard.probe.name} has every label and layer that is named")]
    rows += [("", f"caution: {caution}") for caution in guard.probe.cautions]
    rows += _verdicts(guard)
    amplifying = guard.policy.notices.amplifying
    for calibration in guard.calibrations:
        thresholds = guard.site(calibration.identity).thresholds
        without = [label for label, threshold in thresholds.items() if threshold is None]
        identity, labels = calibration.identity, len(guard.monitored)
        certified = f"{labels - len(without)} of {labels} labels can be certified"
        silent = f"; not {', '.join(without)}: they never alarm" if without else ""
        rows.append((f"on {identity.quantisation}", f"{certified} at this rate{silent}"))
        rows += [("", f"caution: {caution}") for caution in calibration.cautions]
        if mute := [label for label in amplifying if label in without]:
            rows.append(("", f"{', '.join(mute)}: listed as amplifying, and without a threshold"))
    if not guard.calibrations:
        rows.append(("calibrated", f"for no model file: make one with {calibrate_command()}"))
    return rows


def _verdicts(guard: Guard) -> list[tuple[str, str]]:
    """Return the verdicts on the labels: usable ones, then watched ones, then the rest."""
    verdicts = guard.probe.verdicts
    if not verdicts:
        return [("verdicts", "none: emoguard validate finds out what each label is worth")]
    good = ", ".join(label for label in guard.labels if verdicts.get(label) == "usable")
    watched = _poor(verdicts, guard.monitored)
    left = _poor(verdicts, [label for label in guard.labels if label not in guard.monitored])
    rows = [("verdicts", f"{good or 'no label'}: usable")]
    rows += [("", f"{watched}: {DOUBT}")] if watched else []
    return rows + ([("", f"{left}: not watched unless named in labels")] if left else [])


def _shipped_verdicts(policy: Policy) -> list[tuple[str, str]]:
    """Return the labels named by the policy that are not usable in shipped probes."""
    named = dict.fromkeys((*policy.labels, *policy.notices.amplifying))
    rows = []
    for name in shipped_files() if named else ():
        probe = open_probe(name)[0]
        poor = _poor(probe.verdicts, named) if named.keys() <= set(probe.labels) else ""
        if poor:
            rows.append(("verdicts", f"in {name} {poor}: {DOUBT}"))
    return rows


def _poor(verdicts: Mapping[str, Verdict], labels: Iterable[str]) -> str:
    """Return the labels that are not usable, with their verdicts."""
    pairs = [(label, verdicts.get(label, "usable")) for label in labels]
    return ", ".join(f"{label} ({verdict})" for label, verdict in pairs if verdict != "usable")
