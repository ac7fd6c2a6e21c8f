"""Reads the settings that an engine is started with: `additional_config["emoguard"]`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from emoguard.errors import EmoGuardError
from emoguard.policy import schema
from emoguard.policy.interval import Interval

KEY = "emoguard"
"""The key of our part in vLLM's `additional_config`, `extra_args` and `vllm_xargs`."""

LAYOUT = "layout"


@dataclass(frozen=True)
class Settings:
    """The settings of a user.

    `probe` is a probe file or the name of a shipped one (default: the shipped one of the model's
    size), `policy` a YAML file. `slots` is how many different plans may be in force at a time.
    `door` makes an engine for `emoguard fit`, `calibrate` and `validate`: all layers can be read
    out, at the price of memory and time. `page` puts the live page before `vllm serve`; `hosts` are
    names of that server for its page, beside addresses and localhost.
    """

    probe: str | None = None
    policy: str | None = None
    slots: Annotated[int, Interval(least=1, most=1024)] = 64
    door: bool = False
    page: bool = False
    hosts: tuple[str, ...] = ()

    @classmethod
    def of(cls, additional: Any) -> Self | None:
        """Return the settings in a vLLM `additional_config`; None without our part.

        Raises:
            EmoGuardError: an unknown key or a wrong value.

        """
        own = additional.get(KEY) if isinstance(additional, Mapping) else None
        if own is None:
            return None
        if not isinstance(own, Mapping):
            raise EmoGuardError(
                f"additional_config.{KEY}: wanted an object such as {{}} or "
                f'{{"policy": "policy.yaml"}}, got {type(own).__name__}'
            )
        data = {name: value for name, value in own.items() if name != LAYOUT}
        return schema.parse(cls, data, f"additional_config.{KEY}")


@dataclass(frozen=True)
class Layout:
    """The parts that workers prepare before the model is compiled: blocks, number of labels.

    `plugin` is the version of this code: it salts vLLM's compile cache, which does not look at
    plug-ins.
    """

    layers: tuple[int, ...]
    labels: int
    slots: int
    door: bool
    plugin: str

    @classmethod
    def of(cls, additional: Any) -> Self | None:
        """Return the layout in an `additional_config` that the front end has checked."""
        own = additional.get(KEY) if isinstance(additional, Mapping) else None
        if own is None:
            return None
        if LAYOUT not in own:
            raise EmoGuardError(
                f"additional_config.{KEY} was not checked by EmoGuard's plug-in where the engine "
                "was configured: install EmoGuard there, and allow it in VLLM_PLUGINS"
            )
        return cls(**{**own[LAYOUT], "layers": tuple(own[LAYOUT]["layers"])})

    def into(self, additional: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
        """Return the `additional_config` with this layout."""
        return {
            **additional,
            KEY: {**dataclasses.asdict(settings), LAYOUT: dataclasses.asdict(self)},
        }
