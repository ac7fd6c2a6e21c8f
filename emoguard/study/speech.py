"""A model that writes answers and weighs given ones, under one plan per row: what a study needs.

Everything about runtimes is in here. Both go through `generate` with a hook on the logits, so that
steering acts exactly as it does on a live answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.records import Request
from emoguard.runtime.attach import attach
from emoguard.runtime.speaker import Prompt
from emoguard.study.noise import choose

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from emoguard.guard import Guard
    from emoguard.probe.identity import ModelIdentity
    from emoguard.records import Report
    from emoguard.runtime.speaker import Speaker
    from emoguard.steering.plan import Plan

ROWS = 64
"""Rows of one batch in Transformers."""


@dataclass(frozen=True)
class Row:
    """One answer to write: under which plan, at which temperature, with which noise."""

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
    """A text to weigh as an answer: its tokens, and under which plan.

    `reference` (tokens, vocabulary) are log-probabilities that its own are compared with.
    """

    token_ids: tuple[int, ...]
    plan: Plan | None = None
    reference: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Weighed:
    """Log-probabilities (tokens,) of a given answer's tokens.

    `divergence` is the mean KL divergence of its distributions from those of the reference, nats
    per token; `whole` (tokens, vocabulary) are they themselves, only where they were asked for.
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
    """A model that answers one prompt in many ways."""

    identity: ModelIdentity
    fair: int
    """Rows enough to time one by."""

    def prompt(self, user: str, system: str = "") -> list[int]:
        """Return the tokens before an answer: the chat template filled, if the model has one."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an answer."""
        ...

    def write(self, prompt_ids: Sequence[int], rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""
        ...

    def weigh(
        self, prompt_ids: Sequence[int], rows: Sequence[Given], *, whole: bool = False
    ) -> list[Weighed]:
        """Return how likely each given answer is, `whole` with the distribution at every token."""
        ...


class Step(Protocol):
    """Chooses a token from logits (vocabulary,) at one step of a row."""

    def __call__(self, step: int, logits: NDArray[np.float32]) -> int:
        """Return the token."""
        ...


def drawing(row: Row) -> Step:
    """Return what chooses the tokens of an answer to write."""
    return lambda step, logits: choose(logits, row.temperature, row.seed, row.item, step)


class Forcing:
    """Chooses given tokens, and keeps how likely each was."""

    def __init__(self, given: Given, *, whole: bool) -> None:
        self._given = given
        self._whole = whole
        self._logs: list[float] = []
        self._divergences: list[float] = []
        self._distributions: list[NDArray[np.float32]] = []

    def __call__(self, step: int, logits: NDArray[np.float32]) -> int:
        """Return the given token of this step, the likeliest after the last."""
        if step >= len(self._given.token_ids):
            return int(np.argmax(logits))
        token = self._given.token_ids[step]
        x = logits.astype(np.float64)
        x -= x.max()
        x -= np.log(np.exp(x).sum())
        self._logs.append(float(x[token]))
        if self._given.reference is not None:
            own = self._given.reference[step].astype(np.float64)
            self._divergences.append(float(np.exp(own) @ (own - x)))
        if self._whole:
            self._distributions.append(x.astype(np.float32))
        return token

    def weighed(self, dose: float) -> Weighed:
        """Return what was kept."""
        kept = np.array(self._distributions) if self._whole else None
        divergence = float(np.mean(self._divergences)) if self._divergences else 0.0
        return Weighed(np.array(self._logs), dose, divergence, kept)


def open_speech(speaker: Speaker, guard: Guard | None) -> LlamaSpeech | TransformersSpeech:
    """Return the speech of a model, watched by a guard until closed; unwatched where it is None.

    Raises:
        EmoGuardError: a runtime whose choice of tokens cannot be taken over from here.

    """
    roots = {cls.__module__.partition(".")[0] for cls in type(speaker.model).__mro__}
    if "llama_cpp" in roots:
        return LlamaSpeech(speaker, guard)
    if "transformers" in roots:
        return TransformersSpeech(speaker, guard)
    raise EmoGuardError(
        f"a study runs in Transformers and llama.cpp, got a {type(speaker.model).__qualname__}: "
        "open the model by --runtime transformers or llamacpp"
    )


class _Attached:
    """A model watched by a guard until closed; unwatched where the guard is None."""

    def __init__(self, speaker: Speaker, guard: Guard | None, **options: Any) -> None:
        self._speaker, self._model = speaker, speaker.model
        self.identity: ModelIdentity = speaker.door.identity
        self._undo = ExitStack()
        self._watch = (
            None
            if guard is None
            else self._undo.enter_context(attach(self._model, guard, **speaker.options, **options))
        )

    def prompt(self, user: str, system: str = "") -> list[int]:
        """Return the tokens before an answer: the chat template filled, if the model has one."""
        return self._speaker.prompt_ids(Prompt(user, system))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an answer."""
        return tuple(self._speaker.door.tokenize(text, special=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()


class LlamaSpeech(_Attached):
    """A `llama_cpp.Llama` as `Speech`: rows one after the other."""

    fair = 6

    def __init__(self, speaker: Speaker, guard: Guard | None) -> None:
        # The path that steers, from the first answer on: "auto" would change to it half-way.
        super().__init__(speaker, guard, **({} if guard is None else {"backend": "callback"}))
        from llama_cpp import llama_vocab_is_eog  # noqa: PLC0415  (only for a llama.cpp model)

        vocabulary = self._model._model.vocab  # noqa: SLF001  (Llama itself offers no such test)
        self._ends: Callable[[int], bool] = lambda token: llama_vocab_is_eog(vocabulary, token)

    def write(self, prompt_ids: Sequence[int], rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""
        self._prepare(prompt_ids)
        return [self._write(prompt_ids, row, tokens) for row in rows]

    def weigh(
        self, prompt_ids: Sequence[int], rows: Sequence[Given], *, whole: bool = False
    ) -> list[Weighed]:
        """Return how likely each given answer is."""
        self._prepare(prompt_ids)
        found = []
        for row in rows:
            forcing = Forcing(row, whole=whole)
            _, report = self._run(prompt_ids, row.plan, forcing, len(row.token_ids))
            found.append(forcing.weighed(_dose(report)[0]))
        return found

    def _prepare(self, prompt_ids: Sequence[int]) -> None:
        """Leave just the prompt in the cache, so that every row starts from the same state.

        What is found there of an earlier question, and the first row otherwise, would be computed
        in other batches than the rest: not quite the same numbers.
        """
        self._model.reset()
        self._run(prompt_ids, None, lambda _, logits: int(np.argmax(logits)), 1)

    def _write(self, prompt_ids: Sequence[int], row: Row, tokens: int) -> Written:
        ids, report = self._run(prompt_ids, row.plan, drawing(row), tokens)
        return Written(ids, self._speaker.decode(ids), *_dose(report))

    def _run(
        self, prompt_ids: Sequence[int], plan: Plan | None, step: Step, tokens: int
    ) -> tuple[tuple[int, ...], Report | None]:
        from llama_cpp import LogitsProcessorList  # noqa: PLC0415

        def pick(_: Any, logits: NDArray[np.float32]) -> NDArray[np.float32]:
            only = np.full_like(logits, -np.inf)
            only[step(len(ids), logits)] = 0
            return only

        ids: list[int] = []
        options: dict[str, Any] = {"temp": 0.0, "logits_processor": LogitsProcessorList([pick])}
        if self._watch is None:
            self._take(self._model.generate(list(prompt_ids), **options), ids, tokens)
            return tuple(ids), None
        with self._watch.recording() as reports:
            options["emoguard"] = Request(plan=plan)
            self._take(self._model.generate(list(prompt_ids), **options), ids, tokens)
        return tuple(ids), reports[-1]

    def _take(self, tokens: Generator[int, Any, None], ids: list[int], most: int) -> None:
        """Append at most `most` tokens to `ids` as they come, and end the generation."""
        for token in islice(tokens, most):
            if self._ends(token):
                break
            ids.append(int(token))
        tokens.close()


class TransformersSpeech(_Attached):
    """A Transformers model as `Speech`: rows in batches, all after the same prompt."""

    fair = ROWS

    def __init__(self, speaker: Speaker, guard: Guard | None) -> None:
        super().__init__(speaker, guard)
        ends = np.atleast_1d(self._model.generation_config.eos_token_id)
        self._end = {int(each) for each in ends if each is not None}

    def write(self, prompt_ids: Sequence[int], rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""
        found: list[Written] = []
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            steps = [drawing(row) for row in some]
            answers, reports = self._run(prompt_ids, [row.plan for row in some], steps, tokens)
            for ids, report in zip(answers, reports, strict=True):
                found.append(Written(ids, self._speaker.decode(ids), *_dose(report)))
        return found

    def weigh(
        self, prompt_ids: Sequence[int], rows: Sequence[Given], *, whole: bool = False
    ) -> list[Weighed]:
        """Return how likely each given answer is."""
        found: list[Weighed] = []
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            forced = [Forcing(row, whole=whole) for row in some]
            tokens = max(len(row.token_ids) for row in some)
            _, reports = self._run(prompt_ids, [row.plan for row in some], forced, max(tokens, 1))
            found += [
                each.weighed(_dose(report)[0]) for each, report in zip(forced, reports, strict=True)
            ]
        return found

    def _run(
        self,
        prompt_ids: Sequence[int],
        plans: Sequence[Plan | None],
        steps: Sequence[Step],
        tokens: int,
    ) -> tuple[list[tuple[int, ...]], Sequence[Report | None]]:
        import torch  # noqa: PLC0415  (only for a Transformers model)

        ids = torch.tensor([list(prompt_ids)] * len(steps), device=self._model.device)
        options: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "do_sample": False,
            "max_new_tokens": tokens,
            "pad_token_id": min(self._end, default=0),
            "logits_processor": [_Picking(steps, len(prompt_ids))],
        }
        reports: list[Report | None] = [None] * len(steps)
        if self._watch is None:
            out = self._model.generate(**options)
        else:
            requests = [Request(plan=plan) for plan in plans]
            with self._watch.recording() as recorded:
                out = self._model.generate(**options, emoguard=requests)
            by_id = {report.id: report for report in recorded}
            reports = [by_id.get(request.id) for request in requests]
        return [self._answer(row) for row in out[:, len(prompt_ids) :].tolist()], reports

    def _answer(self, ids: list[int]) -> tuple[int, ...]:
        ended = next((n for n, token in enumerate(ids) if token in self._end), len(ids))
        return tuple(ids[:ended])


class _Picking:
    """A logits processor: leaves only the token that each row's step chooses."""

    def __init__(self, steps: Sequence[Step], start: int) -> None:
        self._steps = steps
        self._start = start

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        step = input_ids.shape[1] - self._start
        logits = scores.float().cpu().numpy()
        chosen = [choose(step, row) for choose, row in zip(self._steps, logits, strict=True)]
        only = scores.new_full(scores.shape, float("-inf"))
        only[range(len(chosen)), chosen] = 0
        return only


def _dose(report: Report | None) -> tuple[float, float]:
    """Return the median realised dose of a response, and the share of its tokens cut short."""
    if report is None or report.receipt is None:
        return 0.0, 0.0
    receipt = report.receipt
    return receipt.dose_median or 0.0, receipt.clipped / max(1, report.tokens_scored)
