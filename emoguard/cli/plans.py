"""Reads a plan from the command line: `--steer calm=.05 --cap desperate=.99`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from emoguard.errors import EmoGuardError
from emoguard.steering.plan import Plan


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make up a plan to a click command."""
    for name, text in (
        ("--ablate", "LABEL held at its neutral median. Repeatable."),
        ("--floor", "LABEL=QUANTILE: no lower than this neutral quantile. Repeatable."),
        ("--cap", "LABEL=QUANTILE: no higher than this neutral quantile. Repeatable."),
        ("--steer", "LABEL=DOSE: add this share of the residual's length. Repeatable."),
    ):
        command = click.option(name, multiple=True, help=text)(command)
    return command


def read_plan(
    steer: Sequence[str], cap: Sequence[str], floor: Sequence[str], ablate: Sequence[str]
) -> Plan | None:
    """Return the plan in these options, or None if there are none.

    Raises:
        EmoGuardError: an option is not LABEL=NUMBER, or the plan contradicts itself.

    """
    if not (steer or cap or floor or ablate):
        return None
    return Plan(
        add=_numbers("--steer", steer),
        cap=_numbers("--cap", cap),
        floor=_numbers("--floor", floor),
        ablate=tuple(ablate),
    )


def _numbers(option: str, values: Sequence[str]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for each in values:
        label, _, number = each.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise EmoGuardError(
                f"{option} takes LABEL=NUMBER, such as calm=.05, got {each!r}"
            ) from None
        if label in numbers:
            raise EmoGuardError(f"{option} names {label} twice: give it once")
        numbers[label] = value
    return numbers
