"""What an operator decides, written in YAML and frozen when read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from emoguard.errors import EmoGuardError
from emoguard.plan import CEILING, Plan

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True)
class SteeringPolicy:
    """How far steering may go, and what is steered without being asked.

    `max_dose_ratio`: the bound on ‖h' - h‖/‖h‖ of every token, all layers together, in (0, 0.5].
    `plan`: applied to every response; a request's plan is laid over it and cannot loosen its
    limits. `on_excess`: what becomes of a plan whose doses come to more than the bound: `refuse` it
    before generation starts, or `clip` it and say so in the receipt. `on_fault`: when steering
    breaks during a response, the rest runs `unsteered`, or generation is made to `stop`.
    """

    max_dose_ratio: float = 0.1
    plan: Plan = field(default_factory=Plan)
    on_excess: Literal["refuse", "clip"] = "refuse"
    on_fault: Literal["unsteered", "stop"] = "unsteered"

    def __post_init__(self) -> None:
        if not 0 < self.max_dose_ratio <= CEILING:
            raise EmoGuardError(
                f"max_dose_ratio must lie in (0, {CEILING}], got {self.max_dose_ratio:g}"
            )
        self.allow(Plan())

    def allow(self, plan: Plan) -> tuple[Plan, Plan | None]:
        """Return the plan to apply, laid over the standing one, and what was asked if it differs.

        Raises:
            EmoGuardError: doses beyond the bound, where they are not to be clipped.

        """
        asked = plan.over(self.plan)
        if asked.dose <= self.max_dose_ratio:
            return asked, None
        if self.on_excess == "refuse":
            raise EmoGuardError(
                f"the plan's doses come to {asked.dose:g}, the policy allows max_dose_ratio "
                f"{self.max_dose_ratio:g}: ask for less, or set on_excess: clip"
            )
        return asked.clipped(self.max_dose_ratio), asked


@dataclass(frozen=True)
class Policy:
    """How EmoGuard behaves around one model.

    `labels`: which labels to read and report (empty: all of the probe). `window`: tokens in the
    rolling mean behind a label's peak. `on_unsupported`: what to do with generation modes that have
    no one-row-per-token reading (beam search, assisted decoding): `refuse` raises before anything
    is generated, `skip` generates and reports `skipped`. `keep_reports`: how many reports a watch
    and how many alerts a guard remembers.
    """

    version: Literal[1] = 1
    labels: tuple[str, ...] = ()
    window: int = 16
    on_unsupported: Literal["refuse", "skip"] = "refuse"
    keep_reports: int = 256
    steering: SteeringPolicy = field(default_factory=SteeringPolicy)

    def __post_init__(self) -> None:
        for key in ("window", "keep_reports"):
            if getattr(self, key) < 1:
                raise EmoGuardError(f"{key} must be at least 1, got {getattr(self, key)}")
        if len(set(self.labels)) < len(self.labels):
            raise EmoGuardError(f"labels must be distinct, got {', '.join(self.labels)}")

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a YAML file.

        Raises:
            EmoGuardError: naming the key that is unknown or wrong, and the nearest known one.

        """
        import yaml  # noqa: PLC0415  (only a policy file needs it)

        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        # Besides its own errors PyYAML lets out whatever int(), date() and dict() raise.
        except Exception as error:
            raise EmoGuardError(f"policy {path} cannot be read: {error}") from error
        return cls.parse({} if data is None else data, str(path))

    @classmethod
    def parse(cls, data: Any, source: str = "policy") -> Policy:
        """Check plain data against this class and return the policy it describes."""
        from pydantic import ValidationError  # noqa: PLC0415

        if not isinstance(data, dict):
            raise EmoGuardError(
                f"{source}: a policy is a mapping of keys, got a {type(data).__name__}"
            )
        for key in data:
            if not isinstance(key, str):
                raise EmoGuardError(f"{source}: {key!s:.80}: not a key{cls._hint('')}")
        tupled = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        try:
            return cls(**cls._shape().model_validate(tupled).model_dump())
        except EmoGuardError as error:
            raise EmoGuardError(f"{source}: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])[:80]
            raise EmoGuardError(f"{source}: {key}: {first['msg']}{cls._hint(key)}") from error

    @classmethod
    def _shape(cls) -> type[BaseModel]:
        """Return this class as pydantic checks it. Strict: `window: true` is a mistake, not 1."""
        from pydantic import ConfigDict, create_model  # noqa: PLC0415

        hints = get_type_hints(cls)
        keys: dict[str, Any] = {f.name: (hints[f.name], f.default) for f in fields(cls)}
        strict = ConfigDict(extra="forbid", strict=True)
        return create_model(cls.__name__, __config__=strict, **keys)

    @classmethod
    def _hint(cls, key: str) -> str:
        known = [f.name for f in fields(cls)]
        near = difflib.get_close_matches(key, known, n=1)
        if key.split(".", maxsplit=1)[0] in known:
            return ""
        return f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"
