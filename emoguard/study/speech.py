"""Defines the model of a study: it writes answers and weighs given ones, each a row.

A row has its own prompt and its own plan.

Plug-ins offer it as `open_speech`. It goes through the runtime's own `generate` with a hook on the
logits, so that steering acts exactly as it does on a live answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.runtime.attach import attach, find
from emoguard.runtime.speaker import Prompt
from emoguard.study.noise import choose

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from emoguard.guard import Guard
    from emoguard.probe.identity import ModelIdentity
    from emoguard.records import Report, Request
    from emoguard.runtime.speaker import Speaker
    from emoguard.steering.plan import Plan


@dataclass(frozen=True)
class Row:
    """One answer to write: the tokens before it, its plan, temperature and noise."""

    before: tuple[int, ...]
    plan: Plan | None = None
    temperature: float = 0.0
    seed: int = 0
    item: int = 0


@dataclass(frozen=True)
class Written:
    """An answer; `dose` is the median realised dose, `clipped` the share of tokens cut short."""

    token_ids: tuple[int, ...]
    text: str
    dose: float = 0.0
    clipped: float = 0.0


@dataclass(frozen=True)
class Given:
    """A text to weigh as an answer: the tokens before it, its own and its plan.

    `reference` (tokens, vocabulary) are log-probabilities that its own are compared with.
    """

    before: tuple[int, ...]
    token_ids: tuple[int, ...]
    plan: Plan | None = None
    reference: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Weighed:
    """Log-probabilities (tokens,) of a given answer's tokens.

    `divergence` is the mean KL divergence of its distributions from those of the reference, nats
    per token; `whole` (tokens, vocabulary) are the distributions themselves, if requested.
    """

    logs: NDArray[np.float64]
    dose: float = 0.0
    divergence: float = 0.0
    whole: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def mean(self) -> float:
        """Return the mean log-probability per token; 0 of an empty answer."""
        return float(self.logs.mean()) if len(self.logs) else 0.0


class Speech(Protocol):
    """A model that answers prompts in many ways."""

    identity: ModelIdentity
    rows: int
    """Rows of one batch; 1 where rows run one after the other."""

    def prompt(self, user: str, system: str = "") -> tuple[int, ...]:
        """Return the tokens before an answer: the chat template filled, if the model has one."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an answer."""
        ...

    def write(self, rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""
        ...

    def weigh(self, rows: Sequence[Given], *, whole: bool = False) -> list[Weighed]:
        """Return how likely each given answer is, `whole` with the distribution at every token."""
        ...


class Step(Protocol):
    """Chooses a token from logits (vocabulary,) at one step of a row."""

    def __call__(self, step: int, logits: NDArray[np.float32]) -> int:
        """Return the token."""
        ...


def drawing(row: Row) -> Step:
    """Return the chooser of tokens for an answer to write."""
    return lambda step, logits: choose(logits, row.temperature, row.seed, row.item, step)


class Forcing:
    """Chooses given tokens, and keeps how likely each was; after the last it chooses `end`."""

    def __init__(self, answer: Given, *, whole: bool, end: int = 0) -> None:
        self._given = answer
        self._end = end
        self._whole = whole
        self._logs: list[float] = []
        self._divergences: list[float] = []
        self._distributions: list[NDArray[np.float32]] = []

    def __call__(self, step: int, logits: NDArray[np.float32]) -> int:
        """Return the given token of this step."""
        if step >= len(self._given.token_ids):
            return self._end
        token = self._given.token_ids[step]
        largest = logits.max()
        # Powers in float32, their sum in float64: exact to 1e-7, in a third of the time.
        total = float(largest) + np.log(np.exp(logits - largest).sum(dtype=np.float64))
        self._logs.append(float(logits[token]) - total)
        if self._given.reference is not None:
            own = self._given.reference[step].astype(np.float64)
            self._divergences.append(float(np.exp(own) @ (own - logits.astype(np.float64) + total)))
        if self._whole:
            self._distributions.append((logits.astype(np.float64) - total).astype(np.float32))
        return token

    def weighed(self, dose: float) -> Weighed:
        """Return the log-probabilities kept; an empty answer has no dose."""
        kept = np.array(self._distributions) if self._whole else None
        divergence = float(np.mean(self._divergences)) if self._divergences else 0.0
        return Weighed(np.array(self._logs), dose if self._logs else 0.0, divergence, kept)


def open_speech(speaker: Speaker, guard: Guard | None) -> Attached:
    """Return the speech of a model, watched by a guard until closed; without a guard, unwatched.

    Raises:
        EmoGuardError: the runtime's choice of tokens cannot be controlled.

    """
    plugin, _ = find(speaker.model)
    if not hasattr(plugin, "open_speech"):
        raise EmoGuardError(
            f"a study chooses the tokens itself, which a {type(speaker.model).__qualname__} does "
            "not allow: open the model by another --runtime"
        )
    speech: Attached = plugin.open_speech(speaker, guard)
    return speech


class Attached(ABC):
    """A `Speech` whose model is watched by a guard until closed; without a guard, unwatched."""

    rows: int

    def __init__(self, speaker: Speaker, guard: Guard | None, **options: Any) -> None:
        self._speaker, self._model = speaker, speaker.model
        self.identity: ModelIdentity = speaker.door.identity
        self._undo = ExitStack()
        self._watch = (
            None
            if guard is None
            else self._undo.enter_context(attach(self._model, guard, **speaker.options, **options))
        )

    def prompt(self, user: str, system: str = "") -> tuple[int, ...]:
        """Return the tokens before an answer: the chat template filled, if the model has one."""
        return tuple(self._speaker.prompt_ids(Prompt(user, system)))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an answer."""
        return tuple(self._speaker.door.tokenize(text, special=False))

    @abstractmethod
    def write(self, rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""

    @abstractmethod
    def weigh(self, rows: Sequence[Given], *, whole: bool = False) -> list[Weighed]:
        """Return how likely each given answer is, `whole` with the distribution at every token."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()


def in_order(requests: Sequence[Request], reports: Sequence[Report]) -> list[Report | None]:
    """Return the report of each request, None where there is none."""
    by_id = {report.id: report for report in reports}
    return [by_id.get(request.id) for request in requests]


def dose_of(report: Report | None, plan: Plan | None) -> tuple[float, float]:
    """Return the median realised dose of a response, and the share of its tokens cut short.

    Raises:
        EmoGuardError: `plan` steers, and not every token of the response was steered: its text is
            of no condition.

    """
    if plan is None or plan.is_empty:
        return 0.0, 0.0
    receipt = None if report is None else report.receipt
    if report is None or receipt is None or receipt.faulted:
        left = "all"
        if report is not None and receipt is not None:
            left = f"{receipt.faulted} of {report.tokens_scored}"
        why = (report.detail if report is not None else None) or "no reason was reported"
        raise EmoGuardError(
            f"an answer steered by {plan.as_dict()} was wanted, and {left} of its tokens were left "
            f"unsteered ({why:.200}); it is not kept. Run the same command again; if this stays, "
            "take a smaller dose or a wider dtype, and see that EMOGUARD_DISABLE is not set"
        )
    return receipt.dose_median or 0.0, receipt.clipped / max(1, report.tokens_scored)
