"""The hooks on a GPU: the contract, the bound, CUDA graphs, and never a wait for the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emoguard_torch.kernels import fused_for
from emoguard_torch.read import Weights, read
from emoguard_torch.steer import gather, intervene, steer

import emoguard
from emoguard import Guard, Plan, Policy, Request
from emoguard.steering import bound as reference
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import CHECKS, contract_probe, make_probe, measure_calibration
from tests.contract.hf_models import HfHarness, Tokenizer, build

LABELS = ("happy", "sad", "calm")
PLANS = (
    Plan(add={"happy": 0.3}),
    Plan(cap={"calm": 0.3}),
    Plan(add={"happy": 0.2, "sad": -0.1}, cap={"calm": 0.3}, floor={"sad": 0.2}),
    None,
)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),  # compilers for GPUs warn of much, each release of other
]


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build_here(dtype=torch.float32):
    return build(num_hidden_layers=4).to(dtype).to("cuda")


def guard_for(model):
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, LABELS)
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    return Guard(probe, [measure_calibration(door, probe)], policy)


def prompts(rows):
    return torch.randint(3, 200, (rows, 9), generator=torch.Generator().manual_seed(1))


def generate(model, rows=2, tokens=8, **how):
    ids = prompts(rows).to(model.device)
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False} | how
    return model.generate(input_ids=ids, min_new_tokens=tokens, max_new_tokens=tokens, **how)


def asking(plan=None):
    return Request(plan=plan, scores="tokens")


def z_of(report):
    return np.array([token.z for token in report.tokens])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_holds_on_the_device(dtype, check, monkeypatch):
    harness = HfHarness(build_here(dtype), Tokenizer(), monkeypatch)
    check(harness, contract_probe(harness))


def test_the_device_reads_the_same_as_the_cpu():
    results = []
    for model in (build(num_hidden_layers=4), build_here()):
        with emoguard.attach(model, guard_for(model)) as watch:
            generate(model, rows=1, tokens=1, emoguard=asking())
            results.append(z_of(watch.reports[-1]))
    assert np.allclose(*results, atol=2e-2), results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", [1, 5])
def test_every_row_stays_within_the_bound_and_near_the_reference(dtype, positions):
    model = build_here()
    guard = guard_for(model)
    identity = guard.calibrations[0].identity
    steerings = [guard.site(identity).steering(plan) for plan in PLANS] * 16
    layer = gather(steerings, 1, "cuda", torch.full((64, 3), torch.nan, device="cuda"))
    scale = float(guard.calibrations[0].norms[0]) / guard.probe.hidden**0.5
    rng = torch.Generator("cuda").manual_seed(3)
    shape = (64, positions, guard.probe.hidden)
    h = (torch.randn(shape, generator=rng, device="cuda") * scale).to(dtype)
    fused = fused_for(h.device)
    assert fused is not None, "no Triton here?"
    for move in (intervene, torch.compile(intervene), fused):
        moved = move(h, layer, layer.rows)
        change = torch.linalg.vector_norm(moved.double() - h.double(), dim=-1)
        length = torch.linalg.vector_norm(h.double(), dim=-1)
        budget = next(plan for plan in steerings if plan).interventions[0].budget
        assert torch.all(change <= budget * length)
        assert torch.equal(moved[3::4], h[3::4])
        for row, plan in enumerate(steerings[:3]):
            if dtype is torch.bfloat16:
                break  # which numpy does not have
            wanted = reference.intervene(h[row].cpu().numpy(), plan.interventions[0])
            near = moved[row].cpu().float().numpy()
            assert np.allclose(near, wanted.h, rtol=5e-3, atol=5e-3 * scale)
            assert bool(layer.moves[row, 1]) == wanted.clipped[-1]


def test_a_prompt_longer_than_a_grid_is_high_takes_one_launch():
    from emoguard_torch import fused

    guard = guard_for(build_here())
    steerings = guard.site(guard.calibrations[0].identity).steering(PLANS[2])
    layer = gather([steerings], 1, "cuda", torch.full((1, 3), torch.nan, device="cuda"))
    h = torch.randn((1, 70_000, guard.probe.hidden), device="cuda")
    actual = fused.intervene(h, layer, layer.rows)
    assert torch.allclose(actual, intervene(h, layer, layer.rows), rtol=1e-3, atol=1e-3)
    assert not torch.equal(actual[0, -1], h[0, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unsteered_rows_of_a_batch_keep_every_bit(dtype):
    model = build_here(dtype)
    everything = {"return_dict_in_generate": True, "output_scores": True}
    with emoguard.attach(model, guard_for(model)) as watch:
        plain = generate(model, 8, **everything)
        zero = generate(model, 8, emoguard=asking(Plan(add={"happy": 0.0})), **everything)
        requests = [asking(PLANS[0] if row % 2 else None) for row in range(8)]
        some = generate(model, 8, emoguard=requests, **everything)
        receipts = [report.receipt for report in list(watch.reports)[-8:]]
    assert [receipt is not None for receipt in receipts] == [bool(row % 2) for row in range(8)]
    for same, actual, wanted in zip(zero.scores, some.scores, plain.scores, strict=True):
        assert torch.equal(same, wanted)
        assert torch.equal(actual[::2], wanted[::2])
        assert not torch.equal(actual[1::2], wanted[1::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_read_and_steer_every_token_afresh(dtype):
    """`generate` compiles a static cache's decoding by itself, into CUDA graphs."""
    model = build_here(dtype)
    guard = guard_for(model)
    static = {"cache_implementation": "static"}
    near = 2e-2 if dtype is torch.float32 else 0.3
    with emoguard.attach(model, guard) as watch:
        eager = []
        for plan in PLANS:
            generate(model, emoguard=asking(plan), disable_compile=True, **static)
            eager.append(list(watch.reports)[-2:])
    plain = generate(model, tokens=24, **static)  # compiled before the watch is there
    for _ in range(2):
        with emoguard.attach(model, guard) as watch:
            for plan, shown in 2 * list(zip(PLANS, eager, strict=True)):
                generate(model, emoguard=asking(plan), **static)
                for report, wanted in zip(list(watch.reports)[-2:], shown, strict=True):
                    assert report.status == "scored", report.detail
                    assert [t.id for t in report.tokens] == [t.id for t in wanted.tokens]
                    assert np.allclose(z_of(report), z_of(wanted), atol=near)
                    if plan is None:
                        assert report.receipt is None
                        continue
                    actual, expected = report.receipt, wanted.receipt
                    assert (actual.faulted, actual.applied) == (0, expected.applied)
                    assert actual.dose_median == pytest.approx(
                        expected.dose_median, rel=0.05, abs=1e-4
                    )
                    assert actual.dose_max <= 0.4
    assert torch.equal(generate(model, tokens=24, **static), plain)


def test_another_plan_compiles_nothing_again():
    model = build_here()
    counters = torch._dynamo.utils.counters["stats"]
    with emoguard.attach(model, guard_for(model)) as watch:
        for plan in (None, PLANS[0], PLANS[1], PLANS[2], None):
            generate(model, emoguard=asking(plan), cache_implementation="static")
        compiled = counters["unique_graphs"]
        changed = Plan(add={"sad": 0.1}), Plan(cap={"happy": 0.5}), None
        for plan in changed:
            generate(model, emoguard=asking(plan), cache_implementation="static")
            assert watch.reports[-1].status == "scored"
    assert counters["unique_graphs"] == compiled


@pytest.mark.parametrize("plan", PLANS[:3])
def test_hooks_never_wait_for_the_device(plan):
    model = build_here()
    guard = guard_for(model)
    identity = guard.calibrations[0].identity
    weights = Weights.of(guard.site(identity).readout, 0, "cuda")
    pending = torch.full((2, len(LABELS)), torch.nan, device="cuda")
    steerings = [guard.site(identity).steering(plan), None]
    layer = gather(steerings, 1, "cuda", torch.full((2, 3), torch.nan, device="cuda"))
    h = torch.randn((2, 6, guard.probe.hidden), device="cuda")
    layer.fused = fused_for(h.device)
    steer(layer, h, 0)  # the first launch compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        read(pending, weights, h)
        steer(layer, h, 0)
        steer(layer, h[:, :1], 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert pending.isfinite().all()
    assert layer.moves.isfinite().all()
