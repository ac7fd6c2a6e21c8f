"""Every token has one fresh row, and it is the one that Transformers reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emoguard
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Request
from tests.plugins.vllm.asking import NEAR, ask, preemptions, prompts, rows
from tests.plugins.vllm.engines import PROBE

pytestmark = pytest.mark.engines("eager", "whole", "ngram", "async", "v2", "pp2", "tp3", "ray")


@pytest.fixture
def watch(llm: Any) -> Any:
    with emoguard.attach(llm, Guard.load(PROBE)) as watch:
        yield watch


def check(truth: Any, output: Any) -> float:
    """Check all choices of an output; return the largest difference from Transformers."""
    worst = 0.0
    assert len(output.emoguard) == len(output.outputs)
    for choice, report in zip(output.outputs, output.emoguard, strict=True):
        assert report.status == "scored", report
        assert [token.id for token in report.tokens] == list(choice.token_ids)
        assert report.tokens_scored == report.completion_tokens == len(choice.token_ids)
        wanted = truth.rows(output.prompt_token_ids, choice.token_ids)
        worst = max(worst, float(np.abs(rows(report) - wanted).max()))
    return worst


def test_rows_are_those_of_transformers_in_chunks_and_batches(
    llm: Any, truth: Any, watch: Any, record_property: Any
) -> None:
    found = prompts(truth.tokenizer)
    assert max(map(len, found)) > 512
    outputs = ask(llm, found)
    worst = max(check(truth, output) for output in outputs)
    record_property("dz", worst)
    print(f"rows: |dz| {worst:.2g}")
    assert worst <= NEAR
    tokens, _, _ = truth.steered(found[1], 24, None)
    assert list(outputs[1].outputs[0].token_ids) == tokens


def test_a_prompt_found_in_the_prefix_cache_has_a_fresh_first_row(
    llm: Any, truth: Any, watch: Any
) -> None:
    found = [prompts(truth.tokenizer)[3]]
    ask(llm, found, max_tokens=4)
    (again,) = ask(llm, found, max_tokens=4)
    assert again.num_cached_tokens > 32
    assert check(truth, again) <= NEAR


def test_sampled_choices_each_have_a_report(llm: Any, truth: Any, watch: Any) -> None:
    found = prompts(truth.tokenizer, long=False)[:3]
    own = [Request(id=f"call {n}", scores="tokens") for n in range(3)]
    outputs = ask(llm, found, own, n=3, temperature=0.9, max_tokens=10)
    for number, output in enumerate(outputs):
        assert check(truth, output) <= NEAR
        assert [each.id for each in output.emoguard] == [f"call {number}-{n}" for n in range(3)]
        assert {each.call for each in output.emoguard} == {f"call {number}"}


def test_a_stop_string_cuts_the_report_where_it_cuts_the_text(
    llm: Any, truth: Any, watch: Any
) -> None:
    outputs = ask(llm, prompts(truth.tokenizer, long=False), stop=[".", ","], max_tokens=30)
    assert {output.outputs[0].finish_reason for output in outputs} >= {"stop"}
    for output in outputs:
        assert check(truth, output) <= NEAR
        assert output.emoguard[0].finish == output.outputs[0].finish_reason


def test_a_stop_string_in_the_last_token_allowed_is_the_finish(
    llm: Any, truth: Any, watch: Any
) -> None:
    found = prompts(truth.tokenizer, long=False)
    stopped = [
        output
        for output in ask(llm, found, stop=["."], max_tokens=30)
        if output.outputs[0].finish_reason == "stop"
    ]
    assert stopped
    for output in stopped:
        tokens = len(output.outputs[0].token_ids)
        (again,) = ask(llm, [output.prompt_token_ids], stop=["."], max_tokens=tokens)
        assert again.outputs[0].finish_reason == again.emoguard[0].finish == "stop"


def test_a_response_that_ends_itself_has_a_row_for_its_last_token(
    llm: Any, truth: Any, watch: Any
) -> None:
    outputs = ask(llm, prompts(truth.tokenizer, long=False)[2:3], ignore_eos=False, max_tokens=60)
    assert outputs[0].outputs[0].finish_reason == "stop"
    assert check(truth, outputs[0]) <= NEAR


def test_an_aborted_request_is_reported_as_cancelled(llm: Any, truth: Any, watch: Any) -> None:
    from vllm import SamplingParams

    engine = llm.llm_engine
    prompt = {"prompt_token_ids": prompts(truth.tokenizer)[1]}
    before = len(watch.reports)
    name = engine.add_request("gone", prompt, SamplingParams(max_tokens=50, ignore_eos=True))
    for _ in range(6):
        engine.step()
    engine.abort_request([name], internal=True)
    while engine.has_unfinished_requests():
        engine.step()
    (report,) = list(watch.reports)[before:]
    assert (report.status, report.finish) == ("cancelled", "cancelled")
    assert 0 < report.tokens_scored == report.completion_tokens < 50
    assert watch.live() is None


@pytest.mark.engines("eager", "whole", "async")
def test_preempted_requests_are_read_on(llm: Any, truth: Any, watch: Any) -> None:
    found = prompts(truth.tokenizer)[3:10]
    before = preemptions(llm)
    outputs = ask(llm, found, max_tokens=100)
    assert preemptions(llm) > before
    assert max(check(truth, output) for output in outputs) <= NEAR


def test_nothing_is_left_behind(llm: Any, watch: Any) -> None:
    assert watch.live() is None
    front = watch.joint.front
    assert not front.waiting()


def test_an_engine_that_others_use_unwatched_gives_plain_outputs(llm: Any, truth: Any) -> None:
    from vllm import SamplingParams

    found = [{"prompt_token_ids": ids} for ids in prompts(truth.tokenizer, long=False)[:2]]
    outputs = llm.generate(found, SamplingParams(max_tokens=4), use_tqdm=False)
    for output in outputs:
        assert output.kv_transfer_params is None


def test_alarms_end_a_response(llm: Any, truth: Any) -> None:
    from emoguard.testing.fakes import AlarmingGuard

    plain = Guard.load(PROBE)
    policy = Policy.parse({"alarms": {"on_alert": "stop", "window_tokens": 4}})
    guard = AlarmingGuard(plain.probe, plain.calibrations, policy)
    found = prompts(truth.tokenizer, long=False)[:3]
    with emoguard.attach(llm, guard) as watch:
        outputs = ask(llm, found)
        assert not llm.llm_engine.has_unfinished_requests()
    for output in outputs:
        assert output.outputs[0].finish_reason == "content_filter"
        assert len(output.outputs[0].token_ids) == output.emoguard[0].completion_tokens == 4
        assert output.emoguard[0].finish == "halted"
    assert watch.live() is None
