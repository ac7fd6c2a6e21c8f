"""Recording rules and alerts for Prometheus, rendered from one template each."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from string import Template
from typing import Any, Literal

from emoguard.errors import EmoGuardError

Kind = Literal["recording", "alerts"]

KINDS: tuple[Kind, ...] = ("recording", "alerts")

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"([1-9][0-9]{0,4})([smhd])", re.ASCII)
MATCHER = r'[A-Za-z_][A-Za-z0-9_]*(=|!=|=~|!~)"[ !#-\[\]-~]+"'
SELECTOR = re.compile(f"{MATCHER}(,{MATCHER})*")
ADDRESS = re.compile(r"[\w./:~%+-]+", re.ASCII)


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class RuleOptions:
    """The options of the rules. A duration is a whole number and one of s, m, h, d.

    The defaults page at 6 times the certified rate and warn at 3 times. Their minimum counts keep
    chance out where traffic is thin: with just so much traffic that a count means the burn rate, a
    label that crosses as often as certified, independently, reaches it in less than one long window
    of 40,000 (Poisson).

    Raises:
        EmoGuardError: a value that no rule can be rendered with.

    """

    selector: str = _option('job="emoguard"', "Label matchers that pick EmoGuard's targets.")
    short_window: str = _option("5m", "Short window of the fast burn rate.")
    long_window: str = _option("1h", "Long window of the fast burn rate.")
    slow_short_window: str = _option("30m", "Short window of the slow burn rate.")
    slow_long_window: str = _option("6h", "Long window of the slow burn rate.")
    fast_burn: float = _option(6.0, "Times the certified rate that page.")
    slow_burn: float = _option(3.0, "Times the certified rate that warn.")
    fast_crossings: int = _option(10, "Crossings a fast long window must hold.")
    slow_crossings: int = _option(20, "Crossings a slow long window must hold.")
    event_window: str = _option("15m", "How long a fault or an incomplete response is shown.")
    monitor_window: str = _option("1h", "How long an alarm of a monitor is shown.")
    incomplete_ratio: float = _option(0.01, "Share of incomplete responses that warns.")
    incomplete_responses: int = _option(3, "Incomplete responses there must be.")
    stalled_after: str = _option("1h", "Time without a response that warns.")
    baseline_after: str = _option("90d", "Age of a traffic baseline that is told.")
    hold: str = _option("5m", "How long a state must last before its alert fires.")
    runbook_url: str = _option(
        "",
        "Where you serve the runbook; anchors are added. Without it alerts carry the command that "
        "prints their section.",
    )

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            _check(option.name, option.default, getattr(self, option.name))
        if (
            len(
                {self.short_window, self.long_window, self.slow_short_window, self.slow_long_window}
            )
            < 4
        ):
            raise EmoGuardError(
                "the four windows of the burn rates must differ, got "
                f"{self.short_window}, {self.long_window}, {self.slow_short_window}, "
                f"{self.slow_long_window}: choose others"
            )


def _check(name: str, default: Any, value: Any) -> None:
    if isinstance(default, int | float):
        if not (math.isfinite(value) and value > 0):
            raise EmoGuardError(f"{name} must be above 0, got {value}")
    elif name == "selector":
        if not SELECTOR.fullmatch(value):
            raise EmoGuardError(
                f"selector must be label matchers such as {default}, comma-separated, "
                f"got {value[:60]!r}"
            )
    elif name == "runbook_url":
        if value and not ADDRESS.fullmatch(value):
            raise EmoGuardError(f"runbook_url must be a URL without anchor, got {value[:60]!r}")
    elif not DURATION.fullmatch(value):
        raise EmoGuardError(
            f"{name} must be a whole number and one of s, m, h, d, such as {default}, "
            f"got {value[:60]!r}"
        )


class _Rules(Template):
    # Prometheus uses the dollar sign in annotations itself.
    delimiter = "@"


def render(options: RuleOptions | None = None, kinds: Sequence[Kind] = KINDS) -> str:
    """Return recording rules, alerts or both as YAML for Prometheus 2.42 and later."""
    options = options or RuleOptions()
    values = {
        **{name: _written(value) for name, value in dataclasses.asdict(options).items()},
        "stalled_seconds": str(seconds(options.stalled_after)),
        "baseline_seconds": str(seconds(options.baseline_after)),
    }
    first, *others = (_linked(_template(kind).substitute(values)) for kind in kinds)
    return first + "".join(other.partition("groups:\n")[2] for other in others)


def _linked(rules: str) -> str:
    """Return the rules with the command in place of a link that leads nowhere."""
    return re.sub(r"runbook_url: '#(\w+)'", r"runbook: 'emoguard runbook \1'", rules)


def _template(kind: Kind) -> _Rules:
    path = files("emoguard_prometheus") / "templates" / f"{kind}.yml"
    return _Rules(path.read_text(encoding="utf-8"))


def seconds(duration: str) -> int:
    """Return a checked duration in seconds."""
    number, unit = duration[:-1], duration[-1]
    return int(number) * UNITS[unit]


def _written(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
