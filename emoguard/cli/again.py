"""Writes out the running command, so that it can be repeated."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

import click
from click.core import ParameterSource


def again(ctx: click.Context, *, without: Collection[str] = (), **added: str) -> str:
    """Return the command line of `ctx`, without the options `without` and with those `added`.

    Options left at their default are omitted; options with several values are repeated.
    """
    parts = ["emoguard", str(ctx.info_name)]
    for param in ctx.command.params:
        name = str(param.name)
        is_set = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_set and name not in (*without, *added):
            parts += _option(param, ctx.params[name])
    for name, value in added.items():
        parts += [f"--{name}", value]
    return shlex.join(parts)


def _option(param: click.Parameter, value: Any) -> list[str]:
    flag = max(param.opts, key=len)
    if isinstance(value, bool):
        return [flag] if value else []
    values = value if isinstance(value, tuple) else (value,)
    return [part for each in values for part in (flag, str(each))]
