"""Steered requests are Transformers' steered alike; nothing of it reaches another request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Request
from tests.plugins.vllm import engines
from tests.plugins.vllm.asking import CALM, NEAR, SAD, ask, plans, prompts, rows
from tests.plugins.vllm.engines import PROBE

pytestmark = pytest.mark.engines("eager", "whole", "ngram", "async", "v2", "pp2", "tp3", "ray")

TOO_MUCH = {"add": {"desperate": 0.1}, "ablate": ("calm",)}
"""Wants more than the bound leaves."""
REGROUPED = ("ngram", "whole", "pp2", "tp3")
"""Here the rounding of a row depends on its batch: rows of drafts come and go with the text of the
steered ones, an engine in another process and stages make batches of what has arrived by then, and
ranks add up in an order that depends on a row's place."""
TOP = {"temperature": 1.0, "top_k": 1}
"""Sampling that always takes the likeliest token: vLLM wants one choice of greedy requests."""


@pytest.fixture
def watch(llm: Any) -> Any:
    with emoguard.attach(llm, Guard.load(PROBE)) as watch:
        yield watch


def test_steered_requests_equal_transformers_steered_alike(
    llm: Any, truth: Any, watch: Any
) -> None:
    found = prompts(truth.tokenizer)[1:8]
    own = [SAD, None, CALM, TOO_MUCH, None, {**SAD, "prompt": True}, {**SAD, "layers": (16,)}]
    outputs = ask(llm, found, plans(*own))
    worst = 0.0
    for prompt, plan, output in zip(found, own, outputs, strict=True):
        tokens, z, receipt = truth.steered(prompt, 24, plan)
        (report,) = output.emoguard
        assert list(output.outputs[0].token_ids) == tokens
        worst = max(worst, float(np.abs(rows(report) - z).max()))
        if plan is None:
            assert report.receipt is receipt is None
            continue
        assert report.status == "scored", report.detail
        assert report.receipt.plan == receipt.plan
        assert (report.receipt.applied, report.receipt.faulted) == (24, 0)
        assert abs(report.receipt.clipped - receipt.clipped) <= 1
        assert report.receipt.dose_max <= 0.1
        assert report.receipt.dose_median == pytest.approx(receipt.dose_median, abs=1e-4)
    print(f"steered: |dz| {worst:.2g}")
    assert worst <= NEAR


def test_unsteered_requests_keep_every_bit_beside_steered_ones(
    llm: Any, truth: Any, watch: Any
) -> None:
    found = prompts(truth.tokenizer, long=False)
    llm.reset_prefix_cache()
    alone = ask(llm, found, plans(*[None] * 10))
    llm.reset_prefix_cache()
    mixed = ask(llm, found, plans(*[SAD, None] * 5))
    for n in range(1, 10, 2):
        assert mixed[n].outputs[0].token_ids == alone[n].outputs[0].token_ids
        apart = np.abs(rows(mixed[n].emoguard[0]) - rows(alone[n].emoguard[0])).max()
        assert apart <= (0 if engines.NAME not in REGROUPED else 1e-5)
    assert any(
        mixed[n].outputs[0].token_ids != alone[n].outputs[0].token_ids for n in range(0, 10, 2)
    )


@pytest.mark.parametrize("salted", [True, False])
def test_what_was_computed_steered_is_never_found_again(
    llm: Any, truth: Any, salted: bool, monkeypatch: Any
) -> None:
    """Without the salt it is found, and the next turn reads something else."""
    policy = Policy.parse({"steering": {"max_dose_ratio": 0.5}})
    first = prompts(truth.tokenizer, long=False)[4]
    llm.reset_prefix_cache()
    with emoguard.attach(llm, Guard.load(PROBE, policy)):
        if not salted:
            take_salts_away(llm.llm_engine.output_processor, monkeypatch)
        (steered,) = ask(llm, [first], plans({"add": {"sad": 0.5}}), max_tokens=100)
        monkeypatch.undo()
        following = [*first, *steered.outputs[0].token_ids, *first]
        (turn,) = ask(llm, [following])
    wanted = truth.rows(following, turn.outputs[0].token_ids)
    difference = float(np.abs(rows(turn.emoguard[0]) - wanted).max())
    print(f"after a steered turn: {turn.num_cached_tokens} tokens found, |dz| {difference:.2g}")
    if salted:
        assert turn.num_cached_tokens == 0
        assert difference <= 1e-4
    else:
        assert turn.num_cached_tokens > 64
        assert difference > 0.1


def take_salts_away(processor: Any, monkeypatch: Any) -> None:
    ours = processor.add_request

    def unsalted(request: Any, *args: Any, **kwargs: Any) -> Any:
        done = ours(request, *args, **kwargs)
        request.cache_salt = None
        return done

    monkeypatch.setitem(vars(processor), "add_request", unsalted)


@pytest.mark.engines("eager", "whole", "async", "v2", "pp2", "tp3", "ray")
def test_steered_choices_of_one_request(llm: Any, truth: Any, watch: Any) -> None:
    """Not with drafts: vLLM's own sampler for CPUs then fails on top_k, and errs on top_p."""
    (output,) = ask(
        llm, [prompts(truth.tokenizer, long=False)[0]], plans(SAD), n=3, max_tokens=8, **TOP
    )
    tokens, _, _ = truth.steered(output.prompt_token_ids, 8, SAD)
    for choice, report in zip(output.outputs, output.emoguard, strict=True):
        assert list(choice.token_ids) == tokens
        assert report.receipt.applied == 8


def test_a_plan_beyond_the_bound_is_refused_and_nothing_runs(
    llm: Any, truth: Any, watch: Any
) -> None:
    prompt = prompts(truth.tokenizer, long=False)[0]
    for plan in ({"add": {"sad": 0.2}}, {"add": {"no such label": 0.1}}):
        with pytest.raises(EmoGuardError):
            ask(llm, [prompt], plans(plan))
    assert not llm.llm_engine.has_unfinished_requests()
    assert not watch.joint.front.waiting()


@pytest.mark.engines("eager")
def test_slots_run_out_with_a_sentence_and_come_back(llm: Any, truth: Any, watch: Any) -> None:
    prompt = prompts(truth.tokenizer, long=False)[0]
    watch.joint.front._slots.most = 2
    try:
        many = [{"add": {"sad": 0.01 * n}} for n in (1, 2, 3)]
        with pytest.raises(EmoGuardError, match="2 different plans are in force"):
            ask(llm, [prompt] * 3, plans(*many), max_tokens=4)
        while llm.llm_engine.has_unfinished_requests():
            llm.llm_engine.step()
        outputs = ask(llm, [prompt] * 3, plans(many[0], many[1], many[0]), max_tokens=4)
        assert all(output.emoguard[0].receipt.applied == 4 for output in outputs)
    finally:
        watch.joint.front._slots.most = 64
    assert not watch.joint.front.waiting()


def test_parameters_may_carry_the_request(llm: Any, truth: Any, watch: Any) -> None:
    from vllm import SamplingParams

    prompt = {"prompt_token_ids": prompts(truth.tokenizer, long=False)[0]}
    for own in (
        Request(id="mine", plan=SAD),
        {"plan": SAD},
        '{"plan": {"add": {"sad": 0.08}}}',
    ):
        sampling = SamplingParams(max_tokens=4, ignore_eos=True, extra_args={"emoguard": own})
        for _ in range(2):  # the caller's parameters are not written to
            (output,) = llm.generate([prompt], sampling, use_tqdm=False)
            denied = isinstance(own, str)  # which only a server's client sends
            assert (output.emoguard[0].receipt is None) == denied
            assert output.emoguard[0].denied == (("plan",) if denied else ())
    with pytest.raises(EmoGuardError, match="emoguard"):
        ask(llm, [prompt["prompt_token_ids"]], [None], extra_args={"emoguard": 3})
