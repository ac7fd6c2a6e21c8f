"""Steering in Transformers: equal to the reference, in every row, in every way to run a model."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from emoguard_torch.steer import gather, intervene, steer
from emoguard_transformers import hooks
from hypothesis import given, settings
from hypothesis import strategies as st

import emoguard
from emoguard import EmoGuardError, Guard, Plan, Policy, Request
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering import bound as reference
from emoguard.steering.intervention import Intervention, Steering
from emoguard.steering.policy import SteeringPolicy
from emoguard.steering.prepare import prepare
from emoguard.testing import AlarmingGuard, make_probe, measure_calibration
from tests.contract.hf_models import HfHarness, build

LABELS = ("happy", "sad", "calm")
IDS = torch.tensor([[5, 9, 17, 33, 8, 21, 40], [7, 50, 120, 99, 3, 60, 61]])
STRONG = Plan(add={"happy": 0.4})
MIXED = Plan(add={"happy": 0.2, "sad": -0.1}, cap={"calm": 0.3}, floor={"sad": 0.2})


@pytest.fixture(scope="module")
def model():
    return build()


def guard_for(model, **steering):
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, LABELS)
    policy = Policy(steering=SteeringPolicy(**({"max_dose_ratio": 0.4} | steering)))
    return Guard(probe, [measure_calibration(door, probe)], policy)


@pytest.fixture(scope="module")
def guard(model):
    return guard_for(model)


@pytest.fixture
def watch(model, guard):
    with emoguard.attach(model, guard) as attached:
        yield attached


def generate(model, ids=IDS[:1], tokens=6, **how):
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False} | how
    how = {"min_new_tokens": tokens} | how
    return model.generate(input_ids=ids, max_new_tokens=tokens, **how)


def asking(plan, **more):
    return Request(plan=plan, scores="tokens", **more)


def receipt_of(watch):
    return watch.reports[-1].receipt


def z_of(report):
    return np.array([token.z for token in report.tokens])


@contextmanager
def captured(model, layer):
    """The outputs of one block as the hooks registered so far leave them, last position each."""
    seen = []
    block = model.model.layers[layer]
    handle = block.register_forward_hook(lambda _m, _a, out: seen.append(out[:, -1].clone()))
    try:
        yield seen
    finally:
        handle.remove()


# The function, against the reference in numpy.


def layer_of(plans, guard, layer, device="cpu"):
    steerings = [guard.site(guard.calibrations[0].identity).steering(plan) for plan in plans]
    return steerings, gather(steerings, layer, device, torch.full((len(plans), 3), torch.nan))


plans = st.builds(
    Plan,
    add=st.dictionaries(st.sampled_from(LABELS), st.floats(-0.1, 0.1)),
    cap=st.dictionaries(st.sampled_from(LABELS), st.floats(0.5, 1)),
    floor=st.dictionaries(st.sampled_from(LABELS), st.floats(0, 0.5)),
    layers=st.sampled_from([(), (1,), (2,)]),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_device_with_wider_lengths_keeps_the_bound(guard, monkeypatch, dtype):
    """Steps of 1e30 and more have a finite length there, and hardly any share of one is left."""

    def wide(x, dim):
        return x.double().square().sum(dim).sqrt().float()

    monkeypatch.setattr(torch.linalg, "vector_norm", wide)
    rng = np.random.default_rng(0)
    hidden, budget = guard.probe.hidden, 0.4
    none = np.zeros((0, hidden), np.float32)
    unit = rng.normal(size=(512, hidden))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    shifts = (unit * 10.0 ** rng.uniform(-10, 38, (512, 1))).astype(np.float32)
    gram = np.zeros((0, 0), np.float32)
    steered = [
        Steering(
            Plan(), budget, (Intervention(1, shift, none, none[:, 0], none[:, 0], gram, budget),)
        )
        for shift in shifts
    ]
    layer = gather(steered, 1, "cpu", torch.full((512, 3), torch.nan))
    lengths = 10.0 ** rng.uniform(-16, 1, (512, 1))
    h = torch.tensor(rng.permuted(unit, axis=1) * lengths).to(dtype)[:, None]
    before, after = (x[:, 0].double() for x in (h, intervene(h, layer, layer.rows)))
    change, length = ((x.square().sum(1)).sqrt() for x in (after - before, before))
    assert (change <= budget * length).all()
    assert (change > 0).any()
    assert (layer.moves[:, 2] == 1).any()


@given(st.lists(plans, min_size=2, max_size=5), st.integers(0, 1000), st.sampled_from([1, 2]))
@settings(max_examples=60, deadline=None)
def test_torch_equals_the_reference_row_by_row(guard, chosen, seed, layer):
    dtype = torch.float16 if seed % 2 else torch.float32
    rng = torch.Generator().manual_seed(seed)
    scale = float(guard.calibrations[0].norms[layer - 1]) / guard.probe.hidden**0.5
    h = (torch.randn((len(chosen), 3, guard.probe.hidden), generator=rng) * scale).to(dtype)
    steerings = [guard.site(guard.calibrations[0].identity).steering(plan) for plan in chosen]
    if not any(plan and layer in plan.layers for plan in steerings):
        return
    device = gather(steerings, layer, "cpu", torch.full((len(chosen), 3), torch.nan))
    moved = intervene(h, device, device.rows)
    for row, plan in enumerate(steerings):
        wanted = [i for i in plan.interventions if i.layer == layer] if plan else []
        if not wanted:
            assert torch.equal(moved[row], h[row])
            assert device.moves[row].tolist() == [0, 0, 0]
            continue
        expected = reference.intervene(h[row].numpy(), wanted[0])
        assert np.allclose(moved[row].numpy(), expected.h, rtol=2e-3, atol=2e-3 * scale)
        dose, clipped, faulted = device.moves[row].tolist()
        assert dose == pytest.approx(float(expected.dose[-1]), rel=2e-2, abs=1e-3)
        assert (bool(clipped), bool(faulted)) == (expected.clipped[-1], expected.faulted[-1])


wild = st.builds(
    Plan,
    add=st.dictionaries(st.sampled_from(LABELS), st.floats(-1e6, 1e6), min_size=1),
    cap=st.dictionaries(st.sampled_from(LABELS), st.floats(0, 1)),
)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@given(wild, st.floats(1e-5, 0.5), dtypes, st.tuples(st.integers(-20, 20), st.integers(0, 2**31)))
@settings(max_examples=150, deadline=None)
def test_dose_never_exceeds_the_bound_in_any_dtype(guard, plan, bound, dtype, drawn):
    exponent, seed = drawn
    steering = prepare(plan, guard.probe, guard.calibrations[0], bound)
    layer = gather([steering] * 64, 1, "cpu", torch.full((64, 3), torch.nan))
    rng = torch.Generator().manual_seed(seed)
    h = (torch.randn((64, 1, guard.probe.hidden), generator=rng) * 10.0**exponent).to(dtype)
    finite = h.isfinite().all(-1)
    length = torch.linalg.vector_norm(h.double(), dim=-1)[finite]
    for moved in (intervene(h, layer, layer.rows), steer(layer, h, 0)):
        change = torch.linalg.vector_norm(moved.double() - h.double(), dim=-1)[finite]
        assert torch.all(change <= steering.interventions[0].budget * length)
        assert torch.equal(moved[~finite], h[~finite])


@given(
    st.lists(st.one_of(st.none(), plans), min_size=2, max_size=5),
    st.integers(0, 2**31),
    dtypes,
    st.tuples(st.integers(1, 4), st.integers(0, 5), st.sampled_from([None, 0, 1])),
)
@settings(max_examples=80, deadline=None)
def test_one_by_one_on_a_cpu_is_all_at_once_on_a_device(guard, chosen, seed, dtype, shape):
    count, steps, more = shape
    chosen = [
        plan and dataclasses.replace(plan, prompt=n % 2 == 1) for n, plan in enumerate(chosen)
    ]
    steerings = [guard.site(guard.calibrations[0].identity).steering(plan) for plan in chosen]
    if not any(plan and 1 in plan.layers for plan in steerings):
        return
    rng = torch.Generator().manual_seed(seed)
    scale = float(guard.calibrations[0].norms[0]) / guard.probe.hidden**0.5
    h = (torch.randn((len(steerings), count, guard.probe.hidden), generator=rng) * scale).to(dtype)
    results = []
    for marked in (True, False):
        # `more` positions of a chunked prefill are to come after these.
        chunked = None if more is None else count + more
        layer = gather(steerings, 1, "cpu", torch.full((len(steerings), 3), torch.nan), chunked)
        layer.marks = layer.marks if marked else None
        results.append((steer(layer, h, steps), layer.moves))
    (one, marks), (all_, moves) = results
    near = 2e-2 if dtype is torch.bfloat16 else 3e-3
    assert torch.allclose(one.float(), all_.float(), rtol=near, atol=near * scale)
    assert torch.equal((one == h).all(-1), (all_ == h).all(-1))
    assert torch.allclose(marks[:, 0], moves[:, 0], rtol=5e-2, atol=1e-3)
    assert torch.equal(marks[:, 1:], moves[:, 1:])


@pytest.mark.parametrize(
    "move",
    [lambda layer, h: intervene(h, layer, layer.rows), lambda layer, h: steer(layer, h, 0)],
    ids=["all", "each"],
)
def test_rows_that_are_not_finite_are_left_alone_and_counted(guard, move):
    _, layer = layer_of([STRONG] * 3, guard, 1)
    h = torch.ones((3, 1, guard.probe.hidden))
    h[1, 0, 4] = torch.inf
    moved = move(layer, h)
    assert torch.equal(moved[1], h[1])
    assert layer.moves[:, 2].tolist() == [0, 1, 0]
    assert not torch.equal(moved[0], h[0])


def test_other_outputs_of_a_block_are_passed_on(guard):
    _, layer = layer_of([STRONG], guard, 1)
    h = torch.ones((1, 4, guard.probe.hidden))
    out = steer(layer, (h, "cache", 3), 0)
    assert out[1:] == ("cache", 3)
    assert torch.equal(out[0][:, :-1], h[:, :-1])
    assert not torch.equal(out[0][:, -1], h[:, -1])


# In a model.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_live_token_is_moved_by_the_reference_within_the_bound(dtype):
    model = build().to(dtype)
    guard = guard_for(model)
    for layer, position in ((1, 0), (2, 1)):
        with captured(model, layer) as before, emoguard.attach(model, guard) as watch:
            before.clear()
            with captured(model, layer) as after:
                generate(model, tokens=12, emoguard=asking(MIXED))
            receipt = receipt_of(watch)
        steerings = (
            guard.site(guard.calibrations[0].identity).steering(MIXED).interventions[position]
        )
        assert len(before) == len(after) == receipt.applied == 12
        for h, moved in zip(before, after, strict=True):
            change = torch.linalg.vector_norm(moved.double() - h.double())
            assert change <= steerings.budget * torch.linalg.vector_norm(h.double())
            if dtype is not torch.bfloat16:  # which numpy does not have
                wanted = reference.intervene(h.numpy(), steerings).h
                assert np.allclose(moved.numpy(), wanted, rtol=5e-3, atol=5e-3)


def test_a_layers_reading_is_of_before_its_own_intervention(model, watch):
    generate(model, tokens=1, emoguard=asking(None))
    plain = watch.reports[-1].tokens[0].z
    generate(model, tokens=1, emoguard=asking(dataclasses.replace(STRONG, layers=(2,))))
    assert watch.reports[-1].tokens[0].z == plain  # layer 2 is the last that is read
    generate(model, tokens=1, emoguard=asking(dataclasses.replace(STRONG, layers=(1,))))
    assert watch.reports[-1].tokens[0].z != plain  # layer 2 sees what came of layer 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unsteered_rows_of_a_batch_keep_every_bit(dtype):
    model = build().to(dtype)
    guard = guard_for(model)
    ids = torch.randint(3, 200, (8, 9), generator=torch.Generator().manual_seed(1))
    everything = {"return_dict_in_generate": True, "output_hidden_states": True}
    everything |= {"output_scores": True}
    with emoguard.attach(model, guard) as watch:
        plain = generate(model, ids, 5, **everything)
        requests = [asking(STRONG if row % 2 else None) for row in range(8)]
        some = generate(model, ids, 5, emoguard=requests, **everything)
        reports = list(watch.reports)[-8:]
    assert [r.receipt is not None for r in reports] == [bool(row % 2) for row in range(8)]
    assert torch.equal(some.sequences[::2], plain.sequences[::2])
    for actual, wanted in zip(some.scores, plain.scores, strict=True):
        assert torch.equal(actual[::2], wanted[::2])
        assert not torch.equal(actual[1::2], wanted[1::2])
    for actual, wanted in zip(some.hidden_states, plain.hidden_states, strict=True):
        assert all(torch.equal(f[::2], w[::2]) for f, w in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_zero_plan_is_bit_identical_to_none(dtype):
    model = build().to(dtype)
    everything = {"return_dict_in_generate": True, "output_scores": True}
    with emoguard.attach(model, guard_for(model)) as watch:
        plain = generate(model, **everything)
        zero = generate(model, emoguard=asking(Plan(add={"happy": 0.0})), **everything)
        assert receipt_of(watch) is None
    assert torch.equal(zero.sequences, plain.sequences)
    assert all(torch.equal(f, w) for f, w in zip(zero.scores, plain.scores, strict=True))


def test_rows_of_a_left_padded_batch_are_steered_as_alone(model, watch):
    padded = torch.cat([torch.zeros((1, 3), dtype=torch.long), IDS[:1, :4]], dim=1)
    ids = torch.cat([padded, IDS[1:]])
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    generate(model, ids, attention_mask=mask, emoguard=[asking(STRONG), asking(MIXED)])
    together = list(watch.reports)[-2:]
    generate(model, IDS[:1, :4], emoguard=asking(STRONG))
    generate(model, IDS[1:], emoguard=asking(MIXED))
    for batch, alone in zip(together, list(watch.reports)[-2:], strict=True):
        assert [t.id for t in batch.tokens] == [t.id for t in alone.tokens]
        assert np.allclose(z_of(batch), z_of(alone), atol=1e-3)
        assert batch.receipt.dose_median == pytest.approx(alone.receipt.dose_median, rel=1e-3)


def same_steering(model, watch, plan, **how):
    """Tokens and z of a run in another way equal those of the plain one."""
    generate(model, emoguard=asking(plan))
    plain = watch.reports[-1]
    generate(model, emoguard=asking(plan), **how)
    other = watch.reports[-1]
    assert other.receipt.applied == plain.receipt.applied == 6
    assert [t.id for t in other.tokens] == [t.id for t in plain.tokens]
    assert np.allclose(z_of(other), z_of(plain), atol=1e-3)


@pytest.mark.parametrize("plan", [STRONG, dataclasses.replace(STRONG, prompt=True)], ids=str)
@pytest.mark.parametrize(
    "how",
    [
        {"prefill_chunk_size": 3},
        {"prefill_chunk_size": 6},
        {"use_cache": False},
        {"cache_implementation": "static"},
    ],
    ids=str,
)
def test_ways_to_run_the_model_are_steered_alike(model, watch, plan, how):
    same_steering(model, watch, plan, **how)


def test_a_prompt_partly_in_the_callers_cache_is_steered_from_its_last_token(model, watch):
    generate(model, emoguard=asking(STRONG))
    plain = watch.reports[-1]
    for how in ({}, {"prefill_chunk_size": 2}):
        with torch.no_grad():
            cache = model(IDS[:1, :3], use_cache=True).past_key_values
        generate(model, emoguard=asking(STRONG), past_key_values=cache, **how)
        assert [t.id for t in watch.reports[-1].tokens] == [t.id for t in plain.tokens]


def test_the_prompt_is_moved_only_when_asked(model, watch):
    for plan, moved in ((STRONG, False), (dataclasses.replace(STRONG, prompt=True), True)):
        seen = []
        handle = model.model.layers[1].register_forward_hook(
            lambda _m, _a, out, seen=seen: seen.append(out)
        )
        generate(model, tokens=1)
        generate(model, tokens=1, emoguard=asking(plan))
        handle.remove()
        plain, steered = seen
        assert (not torch.equal(plain[:, :-1], steered[:, :-1])) == moved
        assert not torch.equal(plain[:, -1], steered[:, -1])
        assert receipt_of(watch).applied == 1


def test_the_plan_of_the_block_the_request_and_the_policy_are_laid_over_each_other(model):
    guard = guard_for(model, plan=Plan(cap={"sad": 0.9}))
    with emoguard.attach(model, guard) as watch:
        generate(model)
        assert receipt_of(watch).plan == {"cap": {"sad": 0.9}}
        with watch.steering(Plan(add={"happy": 0.1})):
            generate(model, emoguard=asking(Plan(cap={"calm": 0.5})))
            assert receipt_of(watch).plan == {
                "add": {"happy": 0.1},
                "cap": {"sad": 0.9, "calm": 0.5},
            }
            with (
                pytest.raises(EmoGuardError, match="unknown label"),
                watch.steering(Plan(ablate=("x",))),
            ):
                pytest.fail("entered with a plan that cannot be")
            generate(model)
            assert receipt_of(watch).plan == {"add": {"happy": 0.1}, "cap": {"sad": 0.9}}
        generate(model)
        assert receipt_of(watch).plan == {"cap": {"sad": 0.9}}


def test_a_plan_may_be_a_mapping_and_anything_else_is_named(model, watch):
    plan = {"add": {"happy": 0.2}}
    watch.check_plan(plan)
    with watch.steering(plan):
        generate(model)
    assert receipt_of(watch).plan == plan
    generate(model, emoguard=asking(plan))
    assert receipt_of(watch).plan == plan
    for call in (watch.check_plan, watch.steering):
        with pytest.raises(EmoGuardError, match="plan: ad: unknown; did you mean add"):
            call({"ad": {"happy": 0.2}})
        with pytest.raises(EmoGuardError, match="plan: wanted a mapping"):
            call("happy")


def test_blocks_that_overlap_leave_no_plan_behind(model, watch):
    first, second = watch.steering(Plan(add={"happy": 0.2})), watch.steering(Plan(add={"sad": 0.1}))
    first.__enter__()
    second.__enter__()
    generate(model)
    assert receipt_of(watch).plan == {"add": {"happy": 0.2, "sad": 0.1}}
    first.__exit__(None, None, None)
    generate(model)
    assert receipt_of(watch).plan == {"add": {"sad": 0.1}}
    second.__exit__(None, None, None)
    generate(model)
    assert receipt_of(watch) is None


def test_buffers_keep_their_addresses_from_run_to_run(model, watch, monkeypatch):
    """Of three labels, what is read has the shape of what is told of steering."""
    seen = []
    begin = hooks.Hooks.begin

    def looking(self, run, **how):
        begin(self, run, **how)
        pending = run.tape.pending
        seen.append((pending.shape, pending.data_ptr(), run.steering.moves.data_ptr()))

    monkeypatch.setattr(hooks.Hooks, "begin", looking)
    for _ in range(3):
        generate(model, emoguard=asking(STRONG))
    assert seen[0][0] == (2, 1, 3)
    assert len(set(seen)) == 1


def test_a_standing_plan_that_cannot_be_is_refused_at_attach(model):
    guard = guard_for(model, plan=Plan(cap={"joy": 0.9}))
    clean = HfHarness(model).traces()
    with pytest.raises(EmoGuardError, match="unknown label joy"):
        emoguard.attach(model, guard)
    assert HfHarness(model).traces() == clean


def test_a_plan_that_cannot_be_is_refused_before_the_model_runs(model, watch):
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    for wrong in (
        [asking(STRONG)] * 2,
        asking(Plan(add={"happy": 1e30})),
        asking(dataclasses.replace(STRONG, probe="other")),
        asking(dataclasses.replace(STRONG, layers=(4,))),
    ):
        with pytest.raises(EmoGuardError):
            generate(model, emoguard=wrong)
    with pytest.raises(EmoGuardError, match=r"beam search.*cannot be steered"):
        generate(model, num_beams=2, emoguard=asking(STRONG))
    handle.remove()
    assert not calls
    assert not watch.reports
    generate(model)
    assert watch.reports[-1].status == "scored"


def test_modes_that_are_skipped_unread_are_still_not_left_unsteered(model, guard):
    policy = dataclasses.replace(guard.policy, on_unsupported="skip")
    with emoguard.attach(model, Guard(guard.probe, guard.calibrations, policy)) as watch:
        generate(model, num_beams=2)
        assert watch.reports[-1].status == "skipped"
        with pytest.raises(EmoGuardError, match="cannot be steered"):
            generate(model, num_beams=2, emoguard=asking(STRONG))


@pytest.mark.parametrize("way", ["watched", "class"])
def test_the_plan_of_a_response_ends_with_its_stream(model, watch, way):
    following = model.generate if way == "watched" else partial(type(model).generate, model)

    class Next:
        def put(self, value):
            pass

        def end(self):
            self.found = following(IDS[:1], max_new_tokens=6, do_sample=False)

    plain, streamer = generate(model), Next()
    watch.reports.clear()
    generate(model, streamer=streamer, emoguard=asking(STRONG))
    assert torch.equal(streamer.found, plain)
    first, *others = watch.reports
    assert first.receipt.applied == 6
    # What goes around the watch is not read; it is not steered either.
    assert [(r.receipt, r.completion_tokens) for r in others] == [(None, 6)] * (way == "watched")


def test_each_returned_sequence_is_steered_and_has_its_receipt(model, watch):
    generate(model, do_sample=True, num_return_sequences=3, emoguard=asking(STRONG))
    assert [r.receipt.applied for r in list(watch.reports)[-3:]] == [6, 6, 6]


def test_rows_that_end_early_count_only_their_own_tokens(model, watch):
    plain = generate(model, IDS, emoguard=asking(STRONG))
    stop = int(plain[0, IDS.shape[1] + 2])
    model.generate(
        input_ids=IDS,
        attention_mask=torch.ones_like(IDS),
        do_sample=False,
        max_new_tokens=6,
        eos_token_id=stop,
        pad_token_id=0,
        emoguard=asking(STRONG),
    )
    first = list(watch.reports)[-2]
    assert first.receipt.applied == first.completion_tokens <= 3


def test_a_fault_in_the_middle_leaves_the_rest_unsteered(model, watch, monkeypatch):
    calls = []

    def third_time_broken(*args):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("injected")
        return steer(*args)

    monkeypatch.setattr(hooks, "steer", third_time_broken)
    generate(model, emoguard=asking(STRONG))
    report = watch.reports[-1]
    assert (report.receipt.applied, report.receipt.faulted) == (2, 4)
    assert report.faults == ("steering",)
    assert "injected" in report.detail
    assert len(calls) == 5
    assert report.status == "scored"


def test_steering_in_inference_mode_and_after_it(model, watch):
    with torch.inference_mode():
        generate(model, emoguard=asking(MIXED))
    inside = watch.reports[-1]
    generate(model, emoguard=asking(MIXED))
    assert watch.reports[-1].tokens == inside.tokens
    assert watch.reports[-1].receipt == inside.receipt


class Starting:
    """A streamer that generates with the same model, at its call number `at`."""

    def __init__(self, model, at):
        self.model, self.at, self.calls = model, at, 0

    def put(self, _value):
        self.calls += 1
        if self.calls == self.at:
            generate(self.model, IDS[1:], 3)

    def end(self):
        pass


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_generate_within_a_streamer_takes_nothing_over(model, watch, at):
    """The first call is with the prompt, before the loop of the outer one has begun."""
    wanted = generate(model, emoguard=asking(STRONG)).tolist()
    streamer = Starting(model, at)
    assert generate(model, emoguard=asking(STRONG), streamer=streamer).tolist() == wanted
    assert streamer.calls > 4
    plain, nested = watch.reports
    assert nested.tokens == plain.tokens
    assert nested.receipt == plain.receipt
    assert nested.receipt.applied == 6
    assert nested.notice.kind == "steered"


# Halted.


@pytest.mark.parametrize("passes", [1, 2])
def test_padding_behind_a_row_that_a_fault_stopped_is_no_response(model, monkeypatch, passes):
    calls = []

    def breaking(*args):
        calls.append(1)
        if len(calls) == 2 * passes:  # two layers are steered
            raise RuntimeError("injected")
        return steer(*args)

    plain = generate(model, IDS, tokens=8)
    monkeypatch.setattr(hooks, "steer", breaking)
    with emoguard.attach(model, guard_for(model, on_fault="stop")) as watch:
        requests = [asking(STRONG), Request(scores="tokens")]
        out = generate(model, IDS, tokens=8, pad_token_id=0, emoguard=requests)
        stopped, other = watch.reports
    assert (stopped.finish, stopped.completion_tokens) == ("halted", passes)
    assert [each.id for each in stopped.tokens] == out[0, IDS.shape[1] :][:passes].tolist()
    assert (other.finish, other.completion_tokens) == ("length", 8)
    assert torch.equal(out[1], plain[1])


def test_only_the_row_that_crosses_its_threshold_is_ended(model, guard):
    policy = dataclasses.replace(guard.policy, alarms=AlarmPolicy(window_tokens=3, on_alert="stop"))
    generous = Guard(guard.probe, guard.calibrations, policy)
    with emoguard.attach(model, generous) as watch:
        plain = generate(model, IDS, tokens=8, emoguard=Request(scores="tokens"))
        peaks = [max(np.convolve(z_of(r)[:, 0], np.ones(3) / 3, "valid")) for r in watch.reports]
    assert max(peaks) - min(peaks) > 0.05

    alarming = AlarmingGuard(guard.probe, guard.calibrations, policy)
    alarming.levels = {guard.labels[0]: float(np.mean(peaks))}
    with emoguard.attach(model, alarming) as watch:
        out = generate(model, IDS, tokens=8, pad_token_id=0, emoguard=Request())
        reports = list(watch.reports)
    ended, other = int(np.argmax(peaks)), int(np.argmin(peaks))
    assert reports[ended].finish == "halted"
    assert reports[ended].completion_tokens < 8
    assert (reports[other].finish, reports[other].completion_tokens) == ("length", 8)
    assert torch.equal(out[other], plain[other])
    assert [alert.report_id for alert in alarming.alerts] == [reports[ended].id]


def test_every_alert_of_a_batch_names_its_report(model, guard):
    policy = dataclasses.replace(guard.policy, alarms=AlarmPolicy(window_tokens=2, on_alert="stop"))
    alarming = AlarmingGuard(guard.probe, guard.calibrations, policy)
    with emoguard.attach(model, alarming) as watch:
        generate(model, IDS, tokens=8, pad_token_id=0, emoguard=Request("r"))
        assert [report.id for report in watch.reports] == ["r-0", "r-1"]
    assert [alert.report_id for alert in alarming.alerts] == ["r-0", "r-1"]


def test_a_row_that_ended_by_itself_is_followed_no_more(model, guard):
    policy = dataclasses.replace(guard.policy, alarms=AlarmPolicy(window_tokens=4, on_alert="stop"))

    plain = generate(model, IDS, tokens=2)
    end = int(plain[0, -1])
    assert end != int(plain[1, -1])
    alarming = AlarmingGuard(guard.probe, guard.calibrations, policy)
    with emoguard.attach(model, alarming) as watch:
        how = {"min_new_tokens": 1, "eos_token_id": end, "pad_token_id": 0}
        generate(model, IDS, tokens=8, **how)
        first, second = watch.reports
    assert (first.finish, first.completion_tokens) == ("stop", 2)
    assert (second.finish, second.completion_tokens) == ("halted", 4)
    assert {alert.report_id for alert in alarming.alerts} == {second.id}


# Compiled.


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def counting_backend():
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    return backend, graphs


def test_a_model_compiled_before_is_steered_at_every_token(fresh_compiler):
    model = build()
    guard = guard_for(model)
    with emoguard.attach(model, guard) as watch:
        generate(model, emoguard=asking(MIXED))
        eager = watch.reports[-1]
    backend, _ = counting_backend()
    model.forward = torch.compile(model.forward, backend=backend, dynamic=False)
    how = {"cache_implementation": "static"}
    generate(model, **how)
    for _ in range(2):
        with emoguard.attach(model, guard) as watch:
            generate(model, emoguard=asking(MIXED), **how)
            report = watch.reports[-1]
        assert report.receipt.applied == 6
        assert report.receipt.faulted == 0
        assert report.receipt.dose_median == pytest.approx(eager.receipt.dose_median, rel=1e-3)
        assert [t.id for t in report.tokens] == [t.id for t in eager.tokens]
        assert np.allclose(z_of(report), z_of(eager), atol=1e-3)


def test_another_plan_of_the_same_shape_compiles_nothing_again(fresh_compiler):
    model = build()
    guard = guard_for(model)
    backend, graphs = counting_backend()
    model.forward = torch.compile(model.forward, backend=backend, dynamic=False)
    how = {"cache_implementation": "static"}
    with emoguard.attach(model, guard) as watch:
        generate(model, emoguard=asking(Plan(add={"happy": 0.1}, cap={"sad": 0.9})), **how)
        doses = [receipt_of(watch).dose_median]
        result = len(graphs)
        for plan in (
            Plan(add={"sad": -0.3}, cap={"calm": 0.2}),
            Plan(floor={"happy": 0.99}),
            Plan(add={"calm": 0.05}, ablate=("calm",)),
        ):
            generate(model, emoguard=asking(plan), **how)
            receipt = receipt_of(watch)
            assert (receipt.applied > 0, receipt.faulted) == (True, 0)
            doses.append(receipt.dose_median)
        assert len(graphs) == result
    assert len(set(doses)) == len(doses)
