"""Hundreds of requests of every kind at once: one fresh row per delivered token, nothing left."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import emoguard
from emoguard.guard import Guard
from emoguard.records import Request
from tests.plugins.vllm import engines
from tests.plugins.vllm.asking import CALM, NEAR, SAD, preemptions, prompts, rows
from tests.plugins.vllm.engines import PROBE

pytestmark = pytest.mark.engines("eager", "whole", "ngram", "async", "v2", "pp2", "tp3", "ray")

REQUESTS = 60
LONG = 520
CHECKED = 25
"""Responses whose rows are read again in Transformers."""


def kinds(rng: random.Random, pool: list[list[int]], greedy: bool) -> tuple[list[int], Any, Any]:
    """Return a prompt, sampling parameters and a plan, at random."""
    from vllm import SamplingParams

    base = rng.choice(pool)
    longest = rng.choice([12, 50, 50, 200, 1000])
    # One token alone is a prompt that cannot be steered where workers run ahead.
    shortest = 2 if engines.NAME in ("async", "v2") else 1
    prompt = base[: rng.randint(shortest, min(len(base), longest))]
    many = rng.random() < 0.15
    sampling = SamplingParams(
        n=rng.choice([2, 3]) if many else 1,
        temperature=0.9 if many or (rng.random() < 0.4 and not greedy) else 0.0,
        max_tokens=rng.choice([1, 5, 10, 15, 50]),
        stop=rng.choice([None, None, ["."], [" the", ","]]),
        ignore_eos=rng.random() < 0.7,
    )
    plan = rng.choice([None, None, SAD, CALM, {**SAD, "prompt": True}, {"ablate": ("angry",)}])
    return prompt, sampling, plan


class Fuzz:
    """Drives an engine with `count` requests that come, end and are aborted at random."""

    def __init__(self, llm: Any, pool: list[list[int]], count: int) -> None:
        self.rng = random.Random(count)
        self.engine = llm.llm_engine
        self.waiting = [kinds(self.rng, pool, engines.NAME == "ngram") for _ in range(count)]
        self.asked: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.aborted: set[str] = set()
        self._internal: dict[str, str] = {}

    def run(self) -> None:
        while self.waiting or self.engine.has_unfinished_requests():
            while self.waiting and self.rng.random() < 0.6:
                self._add(f"request {len(self.asked)}", *self.waiting.pop())
            # With nothing to do, an engine in a process of its own would never answer.
            for output in self.engine.step() if self.engine.has_unfinished_requests() else ():
                if output.finished:
                    self.outputs[output.request_id] = output
            if self.rng.random() < 0.05:
                self._abort()

    def _add(self, name: str, prompt: list[int], sampling: Any, plan: Any) -> None:
        sampling.extra_args = {"emoguard": Request(id=name, scores="tokens", plan=plan)}
        given = {"prompt_token_ids": prompt}
        self._internal[name] = self.engine.add_request(name, given, sampling)
        self.asked[name] = (prompt, sampling, plan)

    def _abort(self) -> None:
        running = [name for name in self.asked if name not in self.outputs.keys() | self.aborted]
        if running:
            name = self.rng.choice(running)
            self.aborted.add(name)
            self.engine.abort_request([self._internal[name]], internal=True)

    def responses(self) -> Any:
        """Yield plan, output, choice and report of every response that was not aborted."""
        for name, output in self.outputs.items():
            for choice, report in zip(output.outputs, output.emoguard, strict=True):
                yield self.asked[name][2], output, choice, report


@pytest.mark.parametrize("count", [REQUESTS, pytest.param(LONG, marks=pytest.mark.long)])
def test_every_token_has_one_row(llm: Any, truth: Any, count: int) -> None:
    fuzz = Fuzz(llm, prompts(truth.tokenizer), count)
    before = preemptions(llm)
    with emoguard.attach(llm, Guard.load(PROBE)) as watch, watch.recording() as reports:
        fuzz.run()
        assert watch.live() is None
        assert watch.joint.front.waiting() == []
    assert fuzz.outputs.keys() | fuzz.aborted == fuzz.asked.keys()
    wanted = sum(sampling.n for _, sampling, _ in fuzz.asked.values())
    assert len({report.id for report in reports}) == len(reports) == wanted
    cancelled = {report.status for report in reports if report.call in fuzz.aborted}
    assert cancelled <= {"cancelled", "scored"}  # a choice of several may have ended before
    tokens = steered = 0
    highest = 0.0
    for plan, _, choice, report in fuzz.responses():
        assert report.status == "scored", report
        assert [token.id for token in report.tokens] == list(choice.token_ids)
        assert report.finish == choice.finish_reason
        assert (report.receipt is None) == (plan is None)
        tokens += len(choice.token_ids)
        if plan is not None:
            assert report.receipt.faulted == 0
            assert np.float32(report.receipt.dose_max) <= np.float32(report.receipt.bound)
            steered += report.receipt.applied
            highest = max(highest, report.receipt.dose_max)
    preempted = preemptions(llm) - before
    worst = difference(truth, fuzz)
    print(
        f"fuzz: {count} requests, {wanted} responses, {tokens} tokens, {len(fuzz.aborted)} "
        f"aborted, {preempted} preemptions, {steered} tokens steered by at most {highest:.5f}, "
        f"|dz| {worst:.2g}"
    )
    assert fuzz.aborted
    assert preempted or count < LONG or not engines.has_small_cache()
    assert worst <= NEAR


def difference(truth: Any, fuzz: Fuzz) -> float:
    """Return how far z of some unsteered responses lies from Transformers', sinks left out."""
    plain = [each for each in fuzz.responses() if each[0] is None][:CHECKED]
    found = [0.0]
    for _, output, choice, report in plain:
        apart = np.abs(rows(report) - truth.rows(output.prompt_token_ids, choice.token_ids))
        found += apart[report.attention_sinks :].ravel().tolist()
    return max(found)
