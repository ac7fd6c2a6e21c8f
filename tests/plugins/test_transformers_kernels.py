"""Steering in one launch: only where it gives the same, on its own device, while it runs."""

from __future__ import annotations

import logging

import pytest
import torch
from emoguard_torch.kernels import Launch, agree, fused_for
from emoguard_torch.steer import gather, intervene
from emoguard_transformers import hooks
from emoguard_transformers.run import Run

import emoguard
from emoguard import Guard, Plan, Policy, Request
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import make_probe, measure_calibration
from tests.contract.hf_models import HfHarness, build

CPU = torch.device("cpu")
PLAN = Plan(add={"happy": 0.3}, cap={"sad": 0.4})


@pytest.fixture(scope="module")
def model():
    return build(num_hidden_layers=4)


@pytest.fixture(scope="module")
def guard(model):
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, ("happy", "sad"))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    return Guard(probe, [measure_calibration(door, probe)], policy)


def same(h, _layer, _act):
    return h


def longer(h, layer, act):
    moved = intervene(h, layer, act)
    return h + 1.1 * (moved - h)


def longer_without_limits(h, layer, act):
    return intervene(h, layer, act) if len(layer.directions) else longer(h, layer, act)


def longer_with_one_limit(h, layer, act):
    return longer(h, layer, act) if len(layer.directions) == 1 else intervene(h, layer, act)


def without_clipped(h, layer, act):
    moved = intervene(h, layer, act)
    layer.moves[:, 1] = 0
    return moved


def without_faulted(h, layer, act):
    moved = intervene(h, layer, act)
    layer.moves[:, 2] = 0
    return moved


def by_the_first_position(h, layer, act):
    return intervene(h, layer, act[:, :1])


@pytest.mark.parametrize(
    "wrong",
    [
        same,
        longer,
        longer_without_limits,
        longer_with_one_limit,
        without_clipped,
        without_faulted,
        by_the_first_position,
    ],
)
def test_a_kernel_that_gives_something_else_does_not_agree(wrong):
    assert not agree(wrong, intervene, CPU)


def test_a_kernel_that_gives_the_same_agrees():
    assert agree(intervene, intervene, CPU)
    assert fused_for(CPU) is None


def test_a_kernel_that_does_not_launch_is_left_for_good_and_nothing_goes_unsteered(guard, caplog):
    calls = []

    def out_of_registers(*_):
        calls.append(1)
        raise RuntimeError("OutOfResources")

    steerings = guard.site(guard.calibrations[0].identity).steering(PLAN)
    layer = gather([steerings], 1, "cpu", torch.full((1, 3), torch.nan))
    h = torch.ones((1, 2, guard.probe.hidden))
    wanted = intervene(h, layer, layer.rows)
    launch = Launch(out_of_registers)
    with caplog.at_level(logging.WARNING, "emoguard"):
        for _ in range(3):
            assert torch.equal(launch(h, layer, layer.rows), wanted)
    assert not torch.equal(wanted, h)
    assert len(calls) == 1
    assert [r.getMessage().count("OutOfResources") for r in caplog.records] == [1]


def test_a_layer_on_another_device_than_its_buffer_has_no_kernel(model, guard, monkeypatch):
    monkeypatch.setattr(hooks, "fused_for", lambda _device: same)
    with emoguard.attach(model, guard) as watch:
        watch.joint.hooks.devices = [torch.device("meta"), CPU]  # stand for two GPUs
        run = Run(Request())
        run.add(watch.sessions.open(Request(plan=PLAN)))
        watch.joint.hooks.begin(run, chunked=False)
    assert [layer.fused for layer in run.steering.layers.values()] == [None, same]
