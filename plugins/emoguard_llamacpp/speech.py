"""Writes and weighs answers of a `llama_cpp.Llama` whose tokens a study chooses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
from llama_cpp import LogitsProcessorList, llama_vocab_is_eog
from numpy.typing import NDArray

from emoguard.guard import Guard
from emoguard.records import Report, Request
from emoguard.runtime.speaker import Speaker
from emoguard.steering.plan import Plan
from emoguard.study.speech import (
    Attached,
    Forcing,
    Given,
    Row,
    Step,
    Weighed,
    Written,
    dose_of,
    drawing,
)


class LlamaSpeech(Attached):
    """A `llama_cpp.Llama` as `Speech`: rows one after the other."""

    rows = 1

    def __init__(self, speaker: Speaker, guard: Guard | None) -> None:
        # The path that steers, from the first answer on: "auto" would switch to it half-way.
        super().__init__(speaker, guard, **({} if guard is None else {"backend": "callback"}))
        vocabulary = self._model._model.vocab  # noqa: SLF001  (Llama itself offers no such test)
        self._ends: Callable[[int], bool] = lambda token: llama_vocab_is_eog(vocabulary, token)

    def write(self, rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""
        written: list[Written] = []
        for before, some in groupby(rows, key=lambda row: row.before):
            self._prepare(before)
            written += [self._write(row, tokens) for row in some]
        return written

    def weigh(self, rows: Sequence[Given], *, whole: bool = False) -> list[Weighed]:
        """Return how likely each given answer is."""
        weighed: list[Weighed] = []
        for before, some in groupby(rows, key=lambda row: row.before):
            self._prepare(before)
            weighed += [self._weigh(row, whole=whole) for row in some]
        return weighed

    def _prepare(self, prompt_ids: Sequence[int]) -> None:
        """Leave just the prompt in the cache, so that every row starts from the same state.

        Otherwise the first row, and a prefix left by an earlier question, would be computed in
        other batches than the rest: not quite the same numbers.
        """
        self._model.reset()
        self._run(prompt_ids, None, lambda _, logits: int(np.argmax(logits)), 1)

    def _write(self, row: Row, tokens: int) -> Written:
        ids, report = self._run(row.before, row.plan, drawing(row), tokens)
        return Written(ids, self._speaker.decode(ids), *dose_of(report, row.plan))

    def _weigh(self, row: Given, *, whole: bool) -> Weighed:
        forcing = Forcing(row, whole=whole)
        if not row.token_ids:  # nothing is generated, so nothing is reported
            return forcing.weighed(0.0)
        _, report = self._run(row.before, row.plan, forcing, len(row.token_ids))
        return forcing.weighed(dose_of(report, row.plan)[0])

    def _run(
        self, prompt_ids: Sequence[int], plan: Plan | None, step: Step, tokens: int
    ) -> tuple[tuple[int, ...], Report | None]:
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
        return tuple(ids), reports[-1] if reports else None

    def _take(self, tokens: Generator[int, Any, None], ids: list[int], most: int) -> None:
        """Append at most `most` tokens to `ids` as they come, and end the generation."""
        for token in islice(tokens, most):
            if self._ends(token):
                break
            ids.append(int(token))
        tokens.close()
