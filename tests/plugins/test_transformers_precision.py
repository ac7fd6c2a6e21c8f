"""What we compute is float32, whatever precision the caller has chosen for the model."""

from __future__ import annotations

import pytest
import torch
from emoguard_torch.kernels import agree
from emoguard_torch.precision import full_matmul
from emoguard_torch.read import Weights, read
from emoguard_torch.steer import gather, intervene

from emoguard import Guard, Plan, Policy
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import make_probe, measure_calibration
from tests.contract.hf_models import HfHarness, build

MIXED = Plan(add={"happy": 0.2}, cap={"calm": 0.1, "happy": 0.3})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def guard():
    door = HfHarness(build(num_hidden_layers=4)).open_residuals()
    probe = make_probe(door, ("happy", "sad", "calm"))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    return Guard(probe, [measure_calibration(door, probe)], policy)


@pytest.fixture
def h(guard):
    scale = float(guard.calibrations[0].norms[0]) / guard.probe.hidden**0.5
    rng = torch.Generator().manual_seed(1)
    return torch.randn((1, 3, guard.probe.hidden), generator=rng) * scale


@pytest.fixture
def reading(guard, h):
    weights = Weights.of(guard.site(guard.calibrations[0].identity).readout, 0, "cpu")

    def run():
        pending = torch.full((1, 3), torch.nan)
        read(pending, weights, h)
        return pending

    return run


@pytest.fixture
def steering(guard, h):
    plan = guard.site(guard.calibrations[0].identity).steering(MIXED)

    def run():
        layer = gather([plan], guard.probe.layers[0], "cpu", torch.full((1, 3), torch.nan))
        return torch.cat([intervene(h, layer, layer.rows).flatten(), layer.moves.flatten()])

    return run


@pytest.mark.parametrize("ours", ["reading", "steering"])
def test_autocast_changes_nothing_of_ours(request, ours):
    run = request.getfixturevalue(ours)
    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(), plain)
        assert torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype is torch.bfloat16


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_autocast_changes_nothing_in_compiled_code(guard, h):
    weights = Weights.of(guard.site(guard.calibrations[0].identity).readout, 0, "cpu")
    plan = guard.site(guard.calibrations[0].identity).steering(MIXED)
    layer = gather([plan], guard.probe.layers[0], "cpu", torch.full((1, 3), torch.nan))

    def both(h):
        pending = torch.full((1, 3), torch.nan)
        read(pending, weights, h)
        return pending, intervene(h, layer, layer.rows)

    wanted = both(h)
    torch._dynamo.reset()
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = compiled(h)
    torch._dynamo.reset()
    for ours, theirs in zip(actual, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_kernels_are_compared_without_autocast():
    def in_float32(*args):
        with torch.autocast("cpu", enabled=False):
            return intervene(*args)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert agree(in_float32, intervene, CPU)


@pytest.fixture
def matmul():
    """The process's setting for matrices; it is afterwards as it was."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("an older torch")
    before = matmul.fp32_precision
    yield matmul
    matmul.fp32_precision = before


def test_kernels_are_compared_without_tf32_which_is_then_back(matmul):
    seen = []

    def looking(*args):
        seen.append(matmul.fp32_precision)
        return intervene(*args)

    matmul.fp32_precision = "tf32"
    assert agree(intervene, looking, CPU)
    assert set(seen) == {"ieee"}
    assert matmul.fp32_precision == "tf32"


def test_the_older_setting_is_put_back_too(matmul):
    torch.set_float32_matmul_precision("high")
    with full_matmul():
        assert matmul.fp32_precision == "ieee"
    assert (torch.get_float32_matmul_precision(), matmul.fp32_precision) == ("high", "tf32")
    torch.set_float32_matmul_precision("highest")
