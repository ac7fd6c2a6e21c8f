"""Attention sinks in Transformers: found in every kind of prompt, and left alone by steering."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from emoguard_torch import steer
from transformers import DynamicCache, LogitsProcessor

import emoguard
from emoguard import Guard, Plan, Policy, Request
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import make_probe, measure_calibration
from tests.contract.hf_models import HfHarness, build

TOKEN, OTHER, THIRD = 7, 50, 120
TOKENS = Request(scores="tokens")
PLAN = Plan(add={"happy": 0.2}, cap={"sad": 0.4})
PROMPTED = dataclasses.replace(PLAN, prompt=True)


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def guard(model):
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, ("happy", "sad", "calm"))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    return Guard(probe, [measure_calibration(door, probe)], policy)


@pytest.fixture
def watch(model, guard):
    with emoguard.attach(model, guard) as attached:
        yield attached


class Say(LogitsProcessor):
    """Forces the given tokens, whatever the logits."""

    def __init__(self, *tokens):
        self.tokens = list(tokens)

    def __call__(self, input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        scores[:, self.tokens.pop(0)] = 0
        return scores


def generate(model, ids=None, say=(OTHER, OTHER, OTHER, OTHER), **how):
    if ids is not None:
        how = {"input_ids": torch.tensor(ids)} | how
        how = {"attention_mask": torch.ones_like(how["input_ids"])} | how
    return model.generate(
        do_sample=False, max_new_tokens=len(say), logits_processor=[Say(*say)], **how
    )


def sinks(watch, rows=1):
    reports = list(watch.reports)[-rows:]
    for report in reports:
        assert report.status == "scored"
        assert report.tokens_scored == report.completion_tokens
    return [report.attention_sinks for report in reports]


@pytest.mark.parametrize(
    ("ids", "say", "wanted"),
    [
        ([[TOKEN]], [OTHER] * 4, 1),
        ([[TOKEN] * 9], [OTHER] * 4, 1),
        ([[TOKEN] * 3], [TOKEN, TOKEN, OTHER, TOKEN], 3),
        ([[TOKEN]], [TOKEN] * 4, 4),
        ([[TOKEN, OTHER]], [OTHER] * 4, 0),
        ([[TOKEN, TOKEN, OTHER]], [TOKEN] * 4, 0),
    ],
)
def test_one_token_is_a_sink_as_long_as_it_is_repeated(model, watch, ids, say, wanted):
    generate(model, ids, say=say, emoguard=TOKENS)
    assert sinks(watch) == [wanted]
    report = watch.reports[-1]
    assert [token.attention_sink for token in report.tokens] == [n < wanted for n in range(4)]
    rows = [token.z for token in report.tokens[wanted:]]
    means = [score.mean for score in report.scores.values()]
    assert np.allclose(means, np.mean(rows, axis=0)) if rows else not means


def test_padding_is_not_seen_and_seen_padding_is_a_sink(model, watch):
    ids = [[0, 0, TOKEN], [0, TOKEN, TOKEN], [0, TOKEN, OTHER], [TOKEN, OTHER, THIRD]]
    mask = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 1], [1, 1, 1]])
    generate(model, ids, attention_mask=mask)
    assert sinks(watch, 4) == [1, 1, 0, 0]
    generate(model, ids)
    assert sinks(watch, 4) == [0, 0, 0, 0]
    model.generation_config.pad_token_id = 0
    generate(model, ids, attention_mask=None)  # it makes one up from the padding
    assert sinks(watch, 4) == [1, 1, 0, 0]
    generate(model, ids[:1], attention_mask=mask[:1], num_return_sequences=1)
    assert sinks(watch) == [1]


def test_each_sequence_of_a_prompt_has_its_sink(model, watch):
    torch.manual_seed(0)
    ids = torch.tensor([[0, TOKEN], [TOKEN, OTHER]])
    model.generate(
        input_ids=ids,
        attention_mask=torch.tensor([[0, 1], [1, 1]]),
        do_sample=True,
        num_return_sequences=3,
        max_new_tokens=1,
    )
    assert sinks(watch, 6) == [1, 1, 1, 0, 0, 0]


def test_generation_from_nothing_begins_at_a_sink(model, watch):
    generate(model)
    assert sinks(watch) == [1]


@pytest.mark.parametrize(
    ("ids", "wanted"), [([[TOKEN]], 1), ([[TOKEN] * 4], 1), ([[TOKEN, OTHER]], 0)]
)
def test_embeddings_are_told_apart(model, watch, ids, wanted):
    embeds = model.get_input_embeddings()(torch.tensor(ids))
    generate(model, inputs_embeds=embeds)
    assert sinks(watch) == [wanted]
    padded = torch.cat([torch.ones_like(embeds[:, :2]), embeds], dim=1)
    mask = torch.tensor([[0, 0] + [1] * len(ids[0])])
    generate(model, inputs_embeds=padded, attention_mask=mask)
    assert sinks(watch) == [wanted]


def prefilled(model, ids):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([ids]), past_key_values=cache)
    return cache


def test_tokens_in_a_callers_cache_come_first(model, watch):
    for whole, wanted in (([TOKEN] * 4, 1), ([TOKEN, TOKEN, OTHER, OTHER], 0)):
        generate(model, [whole], past_key_values=prefilled(model, whole[:3]))
        assert sinks(watch) == [wanted]
        generate(
            model,
            [whole[3:]],
            past_key_values=prefilled(model, whole[:3]),
            attention_mask=torch.ones((1, 4), dtype=torch.long),
        )
        assert sinks(watch) == [0]  # one new token, and what is in a cache is not known
    generate(model, [[TOKEN]], past_key_values=DynamicCache(config=model.config))
    assert sinks(watch) == [1]


# Steering.


@contextmanager
def outputs(model, layer):
    """All positions a block put out, as the hooks registered so far leave them."""
    seen = []
    handle = model.model.layers[layer].register_forward_hook(
        lambda _m, _a, out: seen.append(out.clone())
    )
    try:
        yield seen
    finally:
        handle.remove()


def moved(model, guard, ids, **how):
    """The watch, and for each pass which positions (rows, positions) of a block it moved."""
    with outputs(model, 1) as before, emoguard.attach(model, guard) as watch:
        before.clear()  # the witness ran
        with outputs(model, 1) as after:
            generate(model, ids, **how)
    pairs = zip(before, after, strict=True)
    return watch, [(b != a).any(dim=-1).tolist() for b, a in pairs]


WAYS = [{}, {"use_cache": False}, {"prefill_chunk_size": 1}, {"prefill_chunk_size": 2}]


@pytest.fixture(params=["one by one", "all at once"])
def way(request, monkeypatch):
    if request.param == "all at once":
        monkeypatch.setattr(steer, "_on_cpu", steer._on_device)


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.usefixtures("way")
def test_sinks_are_left_alone_however_positions_are_computed(model, guard, how):
    for plan in (PLAN, PROMPTED):
        for prompt, say in (
            ([TOKEN] * 3, [TOKEN, TOKEN, OTHER, TOKEN]),
            ([TOKEN], [OTHER] * 4),
            ([TOKEN, TOKEN, OTHER, TOKEN], [TOKEN, OTHER, TOKEN, TOKEN]),
        ):
            request = Request(plan=plan)
            watch, passes = moved(model, guard, [prompt], say=say, emoguard=request, **how)
            whole = prompt + say[:-1]
            sink = next((n for n, t in enumerate(whole) if t != TOKEN), len(whole))
            steered = {n for n in range(len(whole)) if n >= sink}
            if not plan.prompt:
                steered &= set(range(len(prompt) - 1, len(whole)))
            assert touched(passes, cached=how.get("use_cache", True)) == steered
            receipt = watch.reports[-1].receipt
            assert receipt.applied == len(say) - watch.reports[-1].attention_sinks
            assert receipt.faulted == 0


def touched(passes, *, cached):
    """The positions of one sequence that were moved, in every pass that computed them."""
    results, end = set(), 0
    for (row,) in passes:
        start = end if cached else 0
        end = start + len(row)
        now = {start + n for n, flag in enumerate(row) if flag}
        assert {n for n in results if n >= start} <= now
        results |= now
    return results


@pytest.mark.parametrize("plan", [PLAN, PROMPTED])
@pytest.mark.usefixtures("way")
def test_rows_of_a_batch_are_spared_each_for_itself(model, guard, plan):
    ids = [[0, 0, TOKEN], [0, TOKEN, TOKEN], [0, TOKEN, OTHER], [TOKEN, OTHER, THIRD]]
    mask = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 1], [1, 1, 1]])
    how = {"say": [TOKEN, OTHER], "attention_mask": mask, "emoguard": Request(plan=plan)}
    _, passes = moved(model, guard, ids, **how)
    first = [[False] * 3, [False] * 3, [False, False, True], [False, plan.prompt, True]]
    assert passes == [first, [[False], [False], [True], [True]]]


def test_a_sink_leaves_the_bits_of_other_rows_alone(model, guard):
    ids = [[0, 0, TOKEN], [TOKEN, OTHER, THIRD]]
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    results = []
    with emoguard.attach(model, guard) as watch:
        for wanted in (None, PLAN):
            requests = [Request(plan=wanted), Request(scores="tokens", plan=PLAN)]
            generate(model, ids, attention_mask=mask, emoguard=requests)
            results.append(watch.reports[-1].tokens)
    assert results[0] == results[1]
