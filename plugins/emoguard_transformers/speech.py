"""Writes and weighs answers of a Transformers model whose tokens a study chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

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

ROWS = 64
"""Rows of one batch."""


class TransformersSpeech(Attached):
    """A Transformers model as `Speech`: rows in batches, all after the same prompt."""

    fair = ROWS

    def __init__(self, speaker: Speaker, guard: Guard | None) -> None:
        super().__init__(speaker, guard)
        ends = np.atleast_1d(self._model.generation_config.eos_token_id)
        self._end = {int(each) for each in ends if each is not None}

    def write(self, prompt_ids: Sequence[int], rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""
        written: list[Written] = []
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            steps = [drawing(row) for row in some]
            answers, reports = self._run(prompt_ids, [row.plan for row in some], steps, tokens)
            for ids, report in zip(answers, reports, strict=True):
                written.append(Written(ids, self._speaker.decode(ids), *dose_of(report)))
        return written

    def weigh(
        self, prompt_ids: Sequence[int], rows: Sequence[Given], *, whole: bool = False
    ) -> list[Weighed]:
        """Return how likely each given answer is."""
        weighed: list[Weighed] = []
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            forced = [Forcing(row, whole=whole) for row in some]
            tokens = max(len(row.token_ids) for row in some)
            _, reports = self._run(prompt_ids, [row.plan for row in some], forced, max(tokens, 1))
            weighed += [
                each.weighed(dose_of(report)[0])
                for each, report in zip(forced, reports, strict=True)
            ]
        return weighed

    def _run(
        self,
        prompt_ids: Sequence[int],
        plans: Sequence[Plan | None],
        steps: Sequence[Step],
        tokens: int,
    ) -> tuple[list[tuple[int, ...]], Sequence[Report | None]]:
        ids = torch.tensor([list(prompt_ids)] * len(steps), device=self._model.device)
        options: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "past_key_values": self._read_once(ids, plans),
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

    def _read_once(self, ids: torch.Tensor, plans: Sequence[Plan | None]) -> Any:
        """Return the cache of all rows before their last token: one is read for all.

        None where a plan steers the prompt, too: then rows differ before their last token.
        """
        if ids.shape[1] == 1 or any(plan is not None and plan.prompt for plan in plans):
            return None
        with torch.no_grad():
            cache = self._model(ids[:1, :-1], use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(ids))
        return cache

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
