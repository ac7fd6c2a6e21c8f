"""The operator at the end of a vLLM block: exact in every dtype, whatever the next norm adds up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from emoguard_torch.steer import MOVES, gather
from emoguard_vllm import op
from emoguard_vllm.buffers import Buffers, Planned
from torch import nn

from emoguard.probe.probe import Readout
from emoguard.steering.bound import intervene
from emoguard.steering.intervention import Intervention, Steering
from emoguard.steering.plan import Plan

HIDDEN, LABELS, LAYER = 48, 5, 7
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOUND = 0.1


@pytest.fixture(autouse=True)
def nobody_listens():
    yield
    op.listen(None)


def readout(rng: np.random.Generator) -> Readout:
    def some(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    labels = tuple(f"label {n}" for n in range(LABELS))
    return Readout(labels, (LAYER,), some(1, LABELS, HIDDEN), some(1, HIDDEN), some(1, LABELS))


def buffers(tokens: int = 64, labels: int = LABELS) -> Buffers:
    made = Buffers([LAYER], tokens, labels, HIDDEN, 8, torch.device("cpu"))
    op.listen(made.see)
    return made


def steering(rng: np.random.Generator, length: float) -> Steering:
    directions = rng.normal(size=(2, HIDDEN))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shift = (rng.normal(size=HIDDEN) * length).astype(np.float32)
    limits = np.array([-1.0, -np.inf], np.float32), np.array([1.0, 0.5], np.float32)
    gram = (directions @ directions.T).astype(np.float32)
    at = Intervention(LAYER, shift, directions.astype(np.float32), *limits, gram, BOUND)
    return Steering(Plan(), BOUND, (at,))


def planned(plan: Steering, rows: list[int]) -> Planned:
    layer = gather([plan], LAYER, "cpu", torch.zeros(1, MOVES))
    return Planned(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.long), {LAYER: layer})


def split(rng: np.random.Generator, rows: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return a block's output as vLLM has it: a part that is still to be added, and the rest."""
    hidden = torch.tensor(rng.normal(size=(rows, HIDDEN))).to(dtype)
    return hidden, torch.tensor(rng.normal(size=(rows, HIDDEN)) * 5).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("whole", [False, True])
def test_it_reads_what_the_next_norm_receives(dtype: torch.dtype, whole: bool) -> None:
    rng = np.random.default_rng(0)
    made, reads = buffers(labels=LABELS + 3), readout(rng)
    made.load(reads)
    made.begin(20, None, [])
    hidden, residual = split(rng, 20, dtype)
    torch.ops.emoguard.block(hidden, None if whole else residual, LAYER)
    stream = hidden if whole else hidden + residual
    wanted = reads.part(0, stream.float().numpy())
    found = made.rows(range(20)).numpy()
    assert np.allclose(found[:, :LABELS], wanted, atol=1e-4)
    assert not found[:, LABELS:].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [0.02, 5.0])
@pytest.mark.parametrize("whole", [False, True])
def test_the_next_sum_is_what_the_reference_makes_of_the_stream(
    dtype: torch.dtype, length: float, whole: bool
) -> None:
    rng = np.random.default_rng(1)
    made, plan = buffers(), steering(rng, length)
    hidden, residual = split(rng, 12, dtype)
    if whole:
        hidden, residual = hidden + residual, None
    before = hidden.clone() if whole else hidden + residual
    kept = hidden.clone(), None if whole else residual.clone()
    made.begin(12, planned(plan, [3, 4, 9]), [])
    torch.ops.emoguard.block(hidden, residual, LAYER)
    after = hidden if whole else hidden + residual  # as the next norm adds them up
    if dtype is not torch.bfloat16:  # which numpy does not have
        wanted = intervene(before[[3, 4, 9]].numpy(), plan.interventions[0])
        assert np.array_equal(after[[3, 4, 9]].numpy(), wanted.h)
        assert np.allclose(made.moves[0, [3, 4, 9], 0], wanted.dose, atol=1e-6)
    wide = after.double() - before.double()
    dose = wide.norm(dim=1) / before.double().norm(dim=1)
    assert (dose[[3, 4, 9]] > 0).all()
    assert (dose <= BOUND).all()
    others = [row for row in range(12) if row not in (3, 4, 9)]
    assert torch.equal(hidden[others], kept[0][others])
    if residual is not None:
        assert torch.equal(residual[others], kept[1][others])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bound_holds_in_the_stored_dtype(dtype: torch.dtype) -> None:
    """Ten thousand rows here; `benchmarks/vllm_overhead.py --bound` takes a million."""
    rng = np.random.default_rng(2)
    rows = 2000
    for length in (0.1, 0.5, 1.0, 10.0, 1e4):
        made, plan = buffers(rows), steering(rng, length)
        hidden, residual = split(rng, rows, dtype)
        before = hidden + residual
        made.begin(rows, planned(plan, list(range(rows))), [])
        torch.ops.emoguard.block(hidden, residual, LAYER)
        change = ((hidden + residual).double() - before.double()).norm(dim=1)
        assert (change <= BOUND * before.double().norm(dim=1)).all()


def test_what_breaks_in_reading_leaves_nan_and_is_kept(monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("injected")

    made = buffers()
    made.load(readout(np.random.default_rng(0)))
    made.begin(4, None, [])
    monkeypatch.setattr("emoguard_vllm.buffers.project", broken)
    torch.ops.emoguard.block(torch.ones(4, HIDDEN), None, LAYER)
    assert made.broken.reading == "RuntimeError: injected"
    assert np.isnan(made.rows(range(4)).numpy()[:, :LABELS]).all()


def test_an_operator_that_does_not_run_leaves_nan() -> None:
    made = buffers()
    made.load(readout(np.random.default_rng(0)))
    made.begin(4, None, [])
    torch.ops.emoguard.block(torch.ones(4, HIDDEN), None, LAYER)
    made.begin(4, None, [])
    assert np.isnan(made.rows(range(4)).numpy()[:, :LABELS]).all()


def test_what_breaks_in_steering_stops_it(monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("injected")

    rng = np.random.default_rng(0)
    made, said = buffers(), []
    made.fail = said.append
    made.begin(4, planned(steering(rng, 1.0), [0, 1]), [])
    monkeypatch.setattr("emoguard_vllm.buffers.move", broken)
    hidden = torch.ones(4, HIDDEN)
    torch.ops.emoguard.block(hidden, None, LAYER)
    assert said == ["RuntimeError: injected"]
    assert torch.equal(hidden, torch.ones(4, HIDDEN))
    assert torch.isnan(made.moves[0, :2]).all()


def test_rows_that_are_kept_are_those_of_the_stream() -> None:
    rng = np.random.default_rng(3)
    made = buffers()
    hidden, residual = split(rng, 10, torch.bfloat16)
    made.begin(10, None, [9, 2])
    torch.ops.emoguard.block(hidden, residual, LAYER)
    assert torch.equal(made.kept[0, :2], (hidden + residual)[[9, 2]].float())
    made.begin(10, None, [9, 2])  # and those of an operator that does not run are NaN
    assert torch.isnan(made.kept[0, :2]).all()


def test_torch_finds_nothing_wrong_with_it() -> None:
    made = buffers()
    made.load(readout(np.random.default_rng(0)))
    made.begin(4, None, [])
    torch.library.opcheck(
        torch.ops.emoguard.block.default,
        (torch.ones(4, HIDDEN), torch.ones(4, HIDDEN), LAYER),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


class Block(nn.Module):
    """A block as vLLM has it: returns its own part and the stream before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Any, residual: Any) -> tuple[Any, Any]:
        residual = hidden + residual
        return self.mix(self.norm(residual)), residual


@torch.no_grad()
def test_compiled_code_runs_it() -> None:
    rng = np.random.default_rng(4)
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block() for _ in range(3))
    blocks[1].register_forward_hook(op.Hook(LAYER))

    def stack(hidden: Any) -> Any:
        residual = torch.zeros_like(hidden)
        for block in blocks:
            hidden, residual = block(hidden, residual)
        return hidden + residual

    compiled = torch.compile(stack, backend="aot_eager", fullgraph=True, dynamic=True)
    reads, plan = readout(rng), steering(rng, 1.0)
    for rows in (6, 11):
        given = torch.tensor(rng.normal(size=(rows, HIDDEN)), dtype=torch.float32)
        found = []
        for run in (stack, compiled):
            made = buffers()
            made.load(reads)
            made.begin(rows, planned(plan, [1, rows - 1]), [])
            found.append((run(given), made.rows(range(rows))))
        for ours, theirs in zip(*found, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert torch.isfinite(found[1][1]).all()
