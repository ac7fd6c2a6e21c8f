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
    in_order,
)
from emoguard_transformers.speaker import left_padded, unadjusted

ROWS = 128
"""Rows of one batch: on a CPU it takes little more than twice as long as one of 16."""


class TransformersSpeech(Attached):
    """A Transformers model as `Speech`: rows in batches, after prompts padded on the left."""

    rows = ROWS

    def __init__(self, speaker: Speaker, guard: Guard | None) -> None:
        super().__init__(speaker, guard)
        ends = np.atleast_1d(self._model.generation_config.eos_token_id)
        self._end = {int(each) for each in ends if each is not None}
        self._pad = min(self._end, default=0)

    def write(self, rows: Sequence[Row], tokens: int) -> list[Written]:
        """Return one answer per row, of at most `tokens` tokens."""
        written: list[Written] = []
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            steps = [drawing(row) for row in some]
            answers, reports = self._run(some, steps, tokens)
            for ids, report, row in zip(answers, reports, some, strict=True):
                written.append(Written(ids, self._speaker.decode(ids), *dose_of(report, row.plan)))
        return written

    def weigh(self, rows: Sequence[Given], *, whole: bool = False) -> list[Weighed]:
        """Return how likely each given answer is."""
        weighed: list[Weighed] = []
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            # A row ends after its own tokens: its dose is not that of what a longer one has left.
            forced = [Forcing(row, whole=whole, end=self._pad) for row in some]
            tokens = max(len(row.token_ids) for row in some)
            _, reports = self._run(some, forced, max(tokens, 1))
            weighed += [
                each.weighed(dose_of(report, row.plan)[0])
                for each, report, row in zip(forced, reports, some, strict=True)
            ]
        return weighed

    def _run(
        self, rows: Sequence[Row | Given], steps: Sequence[Step], tokens: int
    ) -> tuple[list[tuple[int, ...]], Sequence[Report | None]]:
        prompts, plans = [row.before for row in rows], [row.plan for row in rows]
        ids, mask = left_padded(prompts, self._pad, self._model.device)
        start = ids.shape[1]
        options: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "past_key_values": self._read_once(prompts, plans),
            "do_sample": False,
            "max_new_tokens": tokens,
            "pad_token_id": self._pad,
            "logits_processor": [_Picking(steps, start)],
        }
        reports: list[Report | None] = [None] * len(steps)
        with unadjusted(self._model):
            if self._watch is None:
                out = self._model.generate(**options)
            else:
                requests = [Request(plan=plan) for plan in plans]
                with self._watch.recording() as recorded:
                    out = self._model.generate(**options, emoguard=requests)
                reports = in_order(requests, recorded)
        return [self._answer(row) for row in out[:, start:].tolist()], reports

    def _read_once(self, prompts: Sequence[tuple[int, ...]], plans: Sequence[Plan | None]) -> Any:
        """Return the cache of all rows before their last token: each prompt is read once.

        None where a plan steers the prompt, too: then rows differ before their last token.
        """
        places = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompts))}
        padded = left_padded(list(places), self._pad, self._model.device)
        ids, mask = (each[:, :-1] for each in padded)
        if not ids.shape[1] or any(plan is not None and plan.prompt for plan in plans):
            return None
        padding = {}
        if not mask.all():
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            padding = {"attention_mask": mask, "position_ids": positions}
        with torch.no_grad():
            read = self._model(ids, **padding, use_cache=True, logits_to_keep=1)
        cache = read.past_key_values
        cache.batch_select_indices(torch.tensor([places[each] for each in prompts]).to(ids.device))
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
