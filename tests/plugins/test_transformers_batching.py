"""Continuous batching in Transformers: each request read and steered as if it were alone."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import emoguard_transformers
import numpy as np
import pytest
import torch
from emoguard_transformers import batching, follower, hooks
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.offloading_manager import OffloadingManager
from transformers.generation.continuous_batching.requests import RequestState

import emoguard
from emoguard import EmoGuardError, Guard, Plan, Policy, Request
from emoguard.records import Report
from emoguard.runtime.session import REQUEST
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import (
    CHECKS,
    AlarmingGuard,
    contract_probe,
    make_probe,
    measure_calibration,
)
from tests.contract.hf_models import HfHarness, Tokenizer, build
from tests.support.models import load_hf, smollm2_gguf

ARCHITECTURES = ("llama", "gemma3_text", "gpt2")
PROMPTS = ([5, 9, 17, 33, 8], [7, 7, 50, 120, 99, 3, 4], [7, 50], [8] * 4 + [12, 61, 40])
LONG = [3 + (7 * n * n + 11 * n) % 200 for n in range(700)]
STRONG = Plan(add={"happy": 0.4})
WHOLE = Plan(add={"happy": 0.4}, cap={"calm": 0.3}, prompt=True)
NEAR = 1e-3


def options(tokens: int = 8, **more: Any) -> GenerationConfig:
    fixed = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    return GenerationConfig(max_new_tokens=tokens, **(fixed | more))


def small(**more: Any) -> ContinuousBatchingConfig:
    fixed = {"page_size": 16, "num_blocks": 128, "max_batch_tokens": 64}
    return ContinuousBatchingConfig(**(fixed | more))


def guard_of(model: Any) -> Guard:
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, ("happy", "sad", "calm"))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    return Guard(probe, [measure_calibration(door, probe)], policy)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def each_model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.fixture(scope="module")
def each_guard(each_model: Any) -> Guard:
    return guard_of(each_model)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(max_position_embeddings=2048)


@pytest.fixture(scope="module")
def guard(model: Any) -> Guard:
    return guard_of(model)


def asking(name: str = "r", plan: Plan | None = None, **more: Any) -> Request:
    return Request(name, plan=plan, scores="tokens", **more)


def batched(model: Any, prompts: Sequence[list[int]], tokens: int = 8, **more: Any) -> list[Any]:
    config = more.pop("config", None) or small()
    outputs = model.generate_batch(
        list(prompts), options(tokens), continuous_batching_config=config, **more
    )
    return [output.generated_tokens for output in outputs.values()]


def alone(model: Any, prompt: list[int], tokens: int = 8, **more: Any) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=options(tokens), **more
    )
    return out[0, len(prompt) :].tolist()


def z_of(report: Report) -> Any:
    return np.array([token.z for token in report.tokens])


def ids_of(report: Report) -> list[int]:
    """Check the law, and return the ids that the rows belong to."""
    assert report.tokens_scored == report.completion_tokens == len(report.tokens), report
    return [token.id for token in report.tokens]


def by_id(reports: Sequence[Report]) -> dict[str, Report]:
    actual = {report.id: report for report in reports}
    assert len(actual) == len(reports)
    return actual


@contextmanager
def running(model: Any, tokens: int = 8, **more: Any) -> Iterator[Any]:
    """A manager whose loop runs in this block."""
    config = more.pop("config", None) or small()
    manager = model.init_continuous_batching(options(tokens, **more), config)
    manager.start()
    try:
        yield manager
    finally:
        manager.stop()


def finished(manager: Any, count: int = 1) -> list[Any]:
    """Wait for so many requests to end."""
    outputs: list[Any] = []
    while len(outputs) < count:
        output = manager.get_result(timeout=1)
        assert output is not None or manager.is_running()
        if output is not None and output.is_finished():
            outputs.append(output)
    return outputs


def asked_for(manager: Any, prompt: list[int], **more: Any) -> list[int]:
    manager.add_request(prompt, **more)
    return finished(manager)[0].generated_tokens


class BatchHarness(HfHarness):
    """Drives a model through continuous batching for `emoguard.testing`."""

    def generate(self, prompt: Any, tokens: int, request: Request | None = None) -> list[int]:
        more = {} if request is None else {"emoguard": request}
        return batched(self.model, [list(prompt)], tokens, **more)[0]

    def break_steering(self, watch: Any) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("injected")

        self.monkeypatch.setattr(hooks, "steer_at", broken)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_plugin_contract(architecture: str, check: Any, monkeypatch: Any) -> None:
    harness = BatchHarness(build(architecture), Tokenizer(), monkeypatch)
    check(harness, contract_probe(harness))


# Rows.


def test_rows_equal_those_of_generate_for_every_request(each_model: Any, each_guard: Guard) -> None:
    requests = [asking(f"r{n}") for n in range(len(PROMPTS))]
    bare = batched(each_model, PROMPTS)
    with emoguard.attach(each_model, each_guard) as watch:
        assert batched(each_model, PROMPTS, emoguard=requests) == bare
        together = by_id(watch.reports)
        for prompt, request, ids in zip(PROMPTS, requests, bare, strict=True):
            assert alone(each_model, prompt, emoguard=asking("alone")) == ids
            report = together[request.id]
            assert ids_of(report) == ids
            assert (report.finish, report.status) == ("length", "scored")
            assert np.abs(z_of(report) - z_of(watch.reports[-1])).max() < NEAR


def test_steered_requests_equal_generate_under_the_same_plan(
    each_model: Any, each_guard: Guard
) -> None:
    plans = (STRONG, None, WHOLE, dataclasses.replace(WHOLE, add={"sad": -0.3}))
    requests = [asking(f"r{n}", plan) for n, plan in enumerate(plans)]
    with emoguard.attach(each_model, each_guard) as watch:
        outputs = batched(each_model, PROMPTS, emoguard=requests)
        together = by_id(watch.reports)
        for prompt, request, ids in zip(PROMPTS, requests, outputs, strict=True):
            assert alone(each_model, prompt, emoguard=asking("a", request.plan)) == ids
            report, reference = together[request.id], watch.reports[-1]
            assert ids_of(report) == ids
            assert np.abs(z_of(report) - z_of(reference)).max() < NEAR
            assert (report.receipt is None) == (request.plan is None)
            if report.receipt is not None:
                assert report.receipt.applied == reference.receipt.applied > 0
                assert report.receipt.dose_max == pytest.approx(reference.receipt.dose_max, 1e-3)


def test_a_prompt_in_chunks_is_read_once_and_steered_at_its_own_positions(
    model: Any, guard: Guard
) -> None:
    prompt = LONG[:150]  # three passes of 64
    with emoguard.attach(model, guard) as watch:
        for plan in (None, STRONG, WHOLE):
            (ids,) = batched(model, [prompt], emoguard=asking(plan=plan))
            report = watch.reports[-1]
            assert ids_of(report) == ids == alone(model, prompt, emoguard=asking(plan=plan))
            assert np.abs(z_of(report) - z_of(watch.reports[-1])).max() < NEAR


def test_unsteered_requests_keep_every_bit_beside_steered_ones(
    each_model: Any, each_guard: Guard
) -> None:
    def reports(*plans: Plan | None) -> dict[str, Report]:
        requests = [asking(f"r{n}", plan) for n, plan in enumerate(plans)]
        with emoguard.attach(each_model, each_guard) as watch:
            # All are there before the loop starts: a pass in other company rounds otherwise.
            manager = each_model.init_continuous_batching(options(8), small())
            for prompt, request in zip(PROMPTS, requests, strict=True):
                manager.add_request(prompt, emoguard=request)
            manager.start()
            finished(manager, len(requests))
            manager.stop()
        return by_id(watch.reports)

    plain, beside = reports(None, None, None, None), reports(None, STRONG, None, WHOLE)
    assert not np.array_equal(z_of(plain["r1"]), z_of(beside["r1"]))
    for name in ("r0", "r2"):
        assert plain[name].tokens == beside[name].tokens


def test_warming_up_leaves_no_row(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch:
        manager = model.init_continuous_batching(options(4), small())
        manager.warmup()
        manager.batch_processor.model_runner.run_one_warmup(model, num_q_tokens=8, max_kv_read=0)
        manager.start()
        ids = asked_for(manager, PROMPTS[0], emoguard=asking())
        manager.stop()
        assert [ids_of(report) for report in watch.reports] == [ids]


# Prefixes.


def after_steered(model: Any, guard: Guard, plan: Plan, prompt: list[int]) -> tuple[Any, Any]:
    """Ids and rows of a plain request behind a steered one with the same first tokens."""
    with emoguard.attach(model, guard) as watch, running(model) as manager:
        steered = asked_for(manager, LONG, emoguard=asking(plan=plan))
        assert watch.reports[-1].receipt.applied
        if prompt is not LONG:
            prompt = LONG + steered + prompt
        ids = asked_for(manager, prompt, emoguard=asking())
        fresh = watch.reports[-1]
        with running(model) as other:
            wanted = asked_for(other, prompt, emoguard=asking())
        return (ids, z_of(fresh)), (wanted, z_of(watch.reports[-1]))


@pytest.mark.parametrize("prompt", [LONG, [9, 9, 4]], ids=["same prompt", "next turn"])
@pytest.mark.parametrize("plan", [STRONG, WHOLE], ids=["response", "whole"])
def test_a_steered_request_leaves_no_prefix(
    model: Any, guard: Guard, plan: Plan, prompt: list[int]
) -> None:
    (ids, z), (wanted, fresh) = after_steered(model, guard, plan, prompt)
    assert ids == wanted
    assert np.array_equal(z, fresh)


def test_without_the_guard_a_steered_prefix_is_found_again(
    model: Any, guard: Guard, monkeypatch: Any
) -> None:
    monkeypatch.setattr(follower, "keep_apart", lambda *_: None)
    (ids, z), (wanted, fresh) = after_steered(model, guard, WHOLE, LONG)
    assert ids != wanted
    assert np.abs(z - fresh).max() > NEAR


def test_a_steered_request_takes_no_prefix_of_another_plan(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model) as manager:
        for before in (None, STRONG):
            asked_for(manager, LONG, emoguard=asking(plan=before))
        ids = asked_for(manager, LONG, emoguard=asking(plan=WHOLE))
        report = watch.reports[-1]
        assert alone(model, LONG, emoguard=asking(plan=WHOLE)) == ids
        assert np.abs(z_of(report) - z_of(watch.reports[-1])).max() < NEAR


def test_unsteered_requests_still_share_prefixes(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model) as manager:
        first = asked_for(manager, LONG, emoguard=asking())
        passes = manager.current_batch
        assert asked_for(manager, LONG, emoguard=asking()) == first
        assert manager.current_batch - passes < passes
        assert [ids_of(report) for report in watch.reports] == [first, first]
        assert np.abs(z_of(watch.reports[0]) - z_of(watch.reports[1])).max() < NEAR


# Requests that are moved out of the cache.


@pytest.fixture
def moves(monkeypatch: Any) -> dict[str, int]:
    """How many requests were reset and how many were copied out of the cache."""
    counts = {"reset": 0, "copied": 0}
    reset, copy = RequestState.create_equivalent_initial_request, OffloadingManager._offload_to_cpu

    def resetting(state: RequestState) -> RequestState:
        counts["reset"] += 1
        return reset(state)

    def copying(*args: Any) -> Any:
        ids = copy(*args)
        counts["copied"] += len(ids)
        return ids

    empty = torch.empty

    def unpinned(*args: Any, pin_memory: bool = False, **how: Any) -> torch.Tensor:
        del pin_memory  # it needs an accelerator
        return empty(*args, **how)

    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", resetting)
    monkeypatch.setattr(OffloadingManager, "_offload_to_cpu", copying)
    monkeypatch.setattr(torch, "empty", unpinned)
    return counts


@pytest.mark.parametrize("kind", ["reset", "copied"])
def test_a_request_that_was_moved_out_is_steered_again_at_the_same_positions(
    model: Any, guard: Guard, kind: str, moves: dict[str, int]
) -> None:
    prompts = [LONG[40 * n : 40 * n + 30] for n in range(4)]
    requests = [asking(f"r{n}", plan) for n, plan in enumerate((STRONG, None, WHOLE, STRONG))]
    tight = small(num_blocks=14, cpu_offload_space=0.01 if kind == "copied" else 0.0)
    with emoguard.attach(model, guard) as watch:
        roomy = batched(model, prompts, 60, emoguard=requests)
        wanted = by_id(watch.reports)
        watch.reports.clear()
        assert batched(model, prompts, 60, emoguard=requests, config=tight) == roomy
        reports = by_id(watch.reports)
    assert {name for name, count in moves.items() if count} == {kind}
    for name, report in reports.items():
        assert ids_of(report) == ids_of(wanted[name])
        assert np.abs(z_of(report) - z_of(wanted[name])).max() < NEAR
        if report.receipt is not None:
            assert report.receipt.applied == wanted[name].receipt.applied == 60


# Sequences and names.


@pytest.mark.parametrize("plan", [None, WHOLE], ids=["plain", "steered"])
def test_every_sequence_of_one_prompt_is_reported(
    model: Any, guard: Guard, plan: Plan | None
) -> None:
    config = options(6, num_return_sequences=3, do_sample=True, temperature=2.0)
    prompt = LONG[:40]
    with emoguard.attach(model, guard) as watch:
        outputs = model.generate_batch(
            [prompt], config, continuous_batching_config=small(), emoguard=asking(plan=plan)
        )
        reports = by_id(watch.reports)
        alone(model, prompt, emoguard=asking("first", plan))
        first = z_of(watch.reports[-1])[0]
    assert set(reports) == {"r-0", "r-1", "r-2"}
    assert {report.call for report in reports.values()} == {"r"}
    generated = sorted(output.generated_tokens for output in outputs.values())
    assert sorted(map(ids_of, reports.values())) == generated
    assert len(set(map(tuple, generated))) > 1
    for report in reports.values():
        assert np.abs(z_of(report)[0] - first).max() < NEAR


def test_without_a_request_reports_are_named_as_the_batch_names_them(
    model: Any, guard: Guard
) -> None:
    with emoguard.attach(model, guard) as watch:
        batched(model, PROMPTS[:2])
        assert {report.id for report in watch.reports} == {"req_0", "req_1"}
        with running(model, num_return_sequences=2, do_sample=True) as manager:
            manager.add_request(PROMPTS[0], request_id="mine")
            finished(manager, 2)
        names = {(report.id, report.call) for report in list(watch.reports)[2:]}
        assert names == {("mine", "mine"), ("mine__child#0", "mine")}


def test_equal_prompts_get_their_own_requests_in_order(model: Any, guard: Guard) -> None:
    requests = [asking("a"), asking("b", STRONG), asking("c")]
    with emoguard.attach(model, guard) as watch:
        plain, steered, last = batched(model, [PROMPTS[0]] * 3, emoguard=requests)
        reports = by_id(watch.reports)
    assert plain == last == ids_of(reports["a"]) == ids_of(reports["c"])
    assert steered == ids_of(reports["b"]) != plain


def test_the_request_around_the_call_counts(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model) as manager:
        token = REQUEST.set(asking("around", STRONG))
        try:
            manager.add_request(PROMPTS[0])
        finally:
            REQUEST.reset(token)
        finished(manager)
        (report,) = watch.reports
    assert (report.id, report.receipt.applied) == ("around", 8)


def test_the_paged_cache_of_generate_is_read(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch:
        out = model.generate(
            torch.tensor([PROMPTS[0]]),
            generation_config=options(),
            cache_implementation="paged",
            continuous_batching_config=small(),
            emoguard=asking(plan=STRONG),
        )
        (report,) = watch.reports
        assert ids_of(report) == out[0, 0, len(PROMPTS[0]) :].tolist()
        assert report.receipt.applied == 8


# How requests end.


def test_an_eos_is_a_stop(model: Any, guard: Guard) -> None:
    plain = batched(model, PROMPTS[:2])
    end = plain[0][2]
    assert end not in plain[0][:2] + plain[1]
    with emoguard.attach(model, guard) as watch, running(model, eos_token_id=end) as manager:
        manager.add_requests(list(PROMPTS[:2]), emoguard=[asking("a"), asking("b")])
        finished(manager, 2)
        reports = by_id(watch.reports)
    assert (ids_of(reports["a"]), reports["a"].finish) == (plain[0][:3], "stop")
    assert (ids_of(reports["b"]), reports["b"].finish) == (plain[1], "length")


def test_only_the_request_that_crosses_its_threshold_is_ended(model: Any, guard: Guard) -> None:
    policy = dataclasses.replace(guard.policy, alarms=AlarmPolicy(window_tokens=3, on_alert="stop"))
    requests = [asking("a"), asking("b")]
    with emoguard.attach(model, guard) as watch:
        plain = batched(model, PROMPTS[:2], emoguard=requests)
        rows = {r.id: z_of(r)[:, 0] for r in watch.reports}
    peaks = {name: max(np.convolve(z, np.ones(3) / 3, "valid")) for name, z in rows.items()}
    ended, other = sorted(peaks, key=lambda name: -peaks[name])
    alarming = AlarmingGuard(guard.probe, guard.calibrations, policy)
    alarming.levels = {guard.labels[0]: float(np.mean([*peaks.values()]))}
    with emoguard.attach(model, alarming) as watch:
        outputs = dict(zip("ab", batched(model, PROMPTS[:2], emoguard=requests), strict=True))
        reports = by_id(watch.reports)
    whole = dict(zip("ab", plain, strict=True))
    assert reports[ended].finish == "halted"
    assert len(outputs[ended]) == reports[ended].completion_tokens < 8
    assert outputs[ended] == whole[ended][: len(outputs[ended])]
    assert (reports[other].finish, outputs[other]) == ("length", whole[other])
    assert [alert.report_id for alert in alarming.alerts] == [ended]


def test_the_report_is_there_before_the_output(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model) as manager:
        for count in range(1, 9):
            asked_for(manager, PROMPTS[0])
            assert len(watch.reports) == count


def started(manager: Any, prompt: list[int], **more: Any) -> None:
    """Add a request and wait for its first token."""
    manager.add_request(prompt, streaming=True, **more)
    assert manager.get_result(timeout=60) is not None


def test_a_cancelled_request_is_reported_so_and_others_go_on(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model, 1000) as manager:
        started(manager, PROMPTS[0], request_id="gone", emoguard=asking("gone", STRONG))
        manager.cancel_request("gone")
        gone = watch.reports[-1]
        while manager.get_result(timeout=0.2) is not None:
            pass
        plain = asked_for(manager, PROMPTS[1], max_new_tokens=8, emoguard=asking("after"))
        after = watch.reports[-1]
        assert not watch.sessions.now()
    assert (gone.id, gone.finish) == ("gone", "cancelled")
    assert gone.tokens_scored == gone.completion_tokens > 0
    assert (after.id, ids_of(after)) == ("after", plain)
    assert len(watch.reports) == 2


def test_a_child_never_split_off_is_cancelled_with_its_parent(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch:
        manager = model.init_continuous_batching(
            options(8, num_return_sequences=3, do_sample=True), small()
        )
        manager.add_request(PROMPTS[0], request_id="gone", emoguard=asking())
        manager.cancel_request("gone")
        manager.start()
        manager.stop()
        assert [report.finish for report in watch.reports] == ["cancelled"] * 3
        assert not watch.sessions.now()


def test_a_hard_stop_cancels(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model, 1000) as manager:
        started(manager, PROMPTS[0])
        manager.add_request(PROMPTS[1])
        manager.stop(hard_stop=True)
        assert [report.finish for report in watch.reports] == ["cancelled"] * 2


def test_an_abandoned_request_is_cancelled(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model, 1000) as manager:
        started(manager, PROMPTS[0], request_id="left")
        watch.abandon("left")
        assert [(report.id, report.finish) for report in watch.reports] == [("left", "cancelled")]
        manager.stop(hard_stop=True)
        assert len(watch.reports) == 1


def test_a_pass_that_fails_cancels(model: Any, guard: Guard, monkeypatch: Any) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("injected")

    with emoguard.attach(model, guard) as watch, running(model) as manager:
        monkeypatch.setattr(model, "forward", broken)
        manager.add_request(PROMPTS[0])
        assert finished(manager)[0].error is not None
        assert [report.finish for report in watch.reports] == ["cancelled"]


def test_a_release_that_cannot_be_followed_is_reported_as_skipped(
    model: Any, guard: Guard, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(batching, "NEEDED", (*batching.NEEDED, "a_part_of_another_release"))
    policy = dataclasses.replace(guard.policy, on_unsupported="skip")
    with emoguard.attach(model, Guard(guard.probe, guard.calibrations, policy)) as watch:
        model.init_continuous_batching(options(), small())
        (report,) = watch.reports
    assert (report.status, report.faults) == ("skipped", ())
    assert "this release of Transformers" in report.detail
    assert "reading failed" not in caplog.text


def test_a_prompt_that_is_too_many_for_a_stopped_manager_makes_no_report(
    model: Any, guard: Guard
) -> None:
    with emoguard.attach(model, guard) as watch:
        with running(model) as manager:
            pass
        assert manager.add_request(PROMPTS[0]) is None
        assert not watch.reports
        assert not watch.sessions.now()


# Detached.


def test_a_detach_while_requests_run_leaves_a_clean_manager(model: Any, guard: Guard) -> None:
    attributes = set(vars(model))
    with running(model, 900) as fresh:
        wanted = asked_for(fresh, LONG, max_new_tokens=8)
    with emoguard.attach(model, guard) as watch:
        manager = model.init_continuous_batching(options(900), small())
        before = set(vars(manager))
        manager.start()
        started(manager, LONG, request_id="under way", emoguard=asking(plan=WHOLE))
    try:
        assert [report.finish for report in watch.reports] == ["cancelled"]
        assert set(vars(model)) == attributes
        assert not any(module._forward_hooks for module in model.modules())
        assert before - set(vars(manager)) >= {"_emoguard", "add_request", "cancel_request"}
        manager.cancel_request("under way")
        while manager.get_result(timeout=0.2) is not None:
            pass
        assert asked_for(manager, LONG, max_new_tokens=8) == wanted
    finally:
        manager.stop()


def test_a_kept_manager_is_followed_again_by_the_next_watch(model: Any, guard: Guard) -> None:
    more = {"persistent_manager": True}
    try:
        plain = batched(model, PROMPTS[:1], **more)
        for plan in (None, STRONG):
            with emoguard.attach(model, guard) as watch:
                ids = batched(model, PROMPTS[:1], emoguard=asking(plan=plan), **more)
                assert [ids_of(report) for report in watch.reports] == ids
                assert (ids == plain) == (plan is None)
        assert batched(model, PROMPTS[:1], **more) == plain
    finally:
        model.destroy_cached_continuous_batching_manager()


def test_the_cache_of_a_batch_is_freed_when_it_ends(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard):
        with running(model) as manager:
            asked_for(manager, PROMPTS[0], emoguard=asking())
            cache = weakref.ref(manager.batch_processor.cache)
        assert cache() is None


def test_switched_off_requests_are_taken_off_the_calls(model: Any, monkeypatch: Any) -> None:
    plain = batched(model, PROMPTS[:1])
    monkeypatch.setenv("EMOGUARD_DISABLE", "1")
    with emoguard.attach(model, None):
        assert batched(model, PROMPTS[:1], emoguard=asking()) == plain
        with running(model) as manager:
            assert asked_for(manager, PROMPTS[0], emoguard=asking()) == plain[0]
            manager.add_requests(list(PROMPTS[:1]), emoguard=asking())
            assert finished(manager)[0].generated_tokens == plain[0]


# Refused.


def test_a_refused_plan_is_raised_before_anything_runs(model: Any, guard: Guard) -> None:
    wrong = asking("b", Plan(add={"happy": 0.41}))
    with emoguard.attach(model, guard) as watch:
        with pytest.raises(EmoGuardError, match=r"0\.41"):
            batched(model, PROMPTS[:2], emoguard=[asking("a"), wrong])
        with running(model) as manager:
            with pytest.raises(EmoGuardError, match=r"0\.41"):
                manager.add_request(PROMPTS[0], emoguard=wrong)
            with pytest.raises(EmoGuardError, match=r"0\.41"):
                manager.add_requests(list(PROMPTS[:2]), emoguard=[asking("a"), wrong])
        assert not watch.reports
        assert not watch.sessions.now()


def test_other_than_one_request_for_each_prompt_is_refused(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch:
        with pytest.raises(EmoGuardError, match="one for each of 2 prompts, got 3"):
            batched(model, PROMPTS[:2], emoguard=[asking()] * 3)
        assert not watch.reports


def test_two_requests_of_one_name_at_once_are_refused(model: Any, guard: Guard) -> None:
    with emoguard.attach(model, guard) as watch, running(model, 1000) as manager:
        started(manager, PROMPTS[0], request_id="same")
        with pytest.raises(EmoGuardError, match="same"):
            manager.add_request(PROMPTS[1], request_id="same")
        assert len(watch.sessions.now()) == 1
        manager.stop(hard_stop=True)


@pytest.mark.parametrize("plan", [None, STRONG], ids=["plain", "steered"])
def test_passes_that_cannot_be_read_are_refused_in_words(
    model: Any, guard: Guard, plan: Plan | None
) -> None:
    policy = dataclasses.replace(guard.policy, on_unsupported="skip" if plan else "refuse")
    with emoguard.attach(model, Guard(guard.probe, guard.calibrations, policy)) as watch:
        manager = model.init_continuous_batching(options(), small(use_async_batching=True))
        with pytest.raises(EmoGuardError, match="asynchronous continuous batching"):
            manager.add_request(PROMPTS[0], emoguard=asking(plan=plan))
        assert not watch.reports
        assert not watch.sessions.now()


def test_a_compiled_model_is_refused_or_runs_unread(guard: Guard) -> None:
    compiled = build(max_position_embeddings=2048)
    compiled.compile(backend="eager")
    with emoguard.attach(compiled, Guard(guard.probe)) as watch:
        with pytest.raises(EmoGuardError, match="compiled model"):
            batched(compiled, PROMPTS[:1])
        assert not watch.reports
    with emoguard.attach(compiled, Guard(guard.probe, (), Policy(on_unsupported="skip"))) as watch:
        assert len(batched(compiled, PROMPTS[:2])) == 2
        assert [report.status for report in watch.reports] == ["skipped"] * 2


# A real model.


@pytest.mark.real
def test_a_real_model_reads_and_steers_as_generate_does() -> None:
    model, tokenizer = load_hf(smollm2_gguf())
    door = emoguard_transformers.open_residuals(model, tokenizer)
    probe = make_probe(door, ("happy", "sad", "calm"), (5, 12, 19, 26))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    guard = Guard(probe, [measure_calibration(door, probe)], policy)
    texts = ("The letter lay on the table, and", "Nobody", "She said that the rain would")
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    plans = (None, Plan(add={"happy": 0.2}), Plan(add={"sad": 0.2}, prompt=True))
    requests = [asking(f"r{n}", plan) for n, plan in enumerate(plans)]
    bare = batched(model, prompts, 12)
    with emoguard.attach(model, guard, tokenizer=tokenizer) as watch:
        outputs = batched(model, prompts, 12, emoguard=requests)
        together = by_id(watch.reports)
        for prompt, request, ids in zip(prompts, requests, outputs, strict=True):
            assert alone(model, prompt, 12, emoguard=asking("a", request.plan)) == ids
            assert ids_of(together[request.id]) == ids
            difference = z_of(together[request.id]) - z_of(watch.reports[-1])
            assert np.abs(difference).max() < NEAR
    assert outputs[0] == bare[0]
    (ids, z), (wanted, fresh) = after_steered(model, guard, plans[2], LONG)
    assert (ids, z.tolist()) == (wanted, fresh.tolist())
