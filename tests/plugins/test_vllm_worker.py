"""EmoGuard's worker beside a model runner: which rows are read and moved in which step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from emoguard_vllm import op
from emoguard_vllm.settings import Layout
from emoguard_vllm.slots import Slots
from emoguard_vllm.wire import Carried, Order
from emoguard_vllm.worker import Part, Worker
from torch import nn

from emoguard.errors import EmoGuardError
from emoguard.probe import artifact
from emoguard.testing.fakes import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

HIDDEN = FAKE_IDENTITY.hidden
PROBE = make_probe(FakeResiduals())
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
PLAN = {"add": {"sad": 0.05}}


class Passing(nn.Module):
    """A block that changes nothing."""

    def forward(self, hidden: Any, residual: Any) -> Any:
        return hidden.clone(), residual.clone()


class Model(nn.Module):
    """Six blocks where vLLM's decoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(Passing() for _ in range(6))

    def forward(self, hidden: Any) -> Any:
        residual = torch.zeros_like(hidden)
        for layer in self.model.layers:
            hidden, residual = layer(hidden, residual)
        return hidden + residual


@pytest.fixture
def worker():
    layout = Layout(PROBE.layers, 4, 2, door=False, plugin="0")
    worker = Worker(Model(), layout, HIDDEN, 64, "cpu")
    worker.start(artifact.encode(PROBE, [CALIBRATION]), FAKE_IDENTITY.digest, PROBE.labels)
    yield worker
    op.listen(None)


def follow(worker: Worker, **orders: Order | None) -> None:
    news = [
        (name, SimpleNamespace(extra_args=order and {"emoguard": order.data()}))
        for name, order in orders.items()
    ]
    worker.enter(news, [])


def plan(**more: Any) -> Order:
    settled = {"plan": PLAN, "bound": 0.1, "calibration": FAKE_IDENTITY.digest}
    return Order(**(settled | more))


def step(worker: Worker, *parts: tuple[str, int, int], drafts: int = 0, tokens: Any = ()) -> Any:
    """Run parts (request, past, count) packed in a row; return what went in, out, and gathered."""
    made, start = [], 0
    for request, past, count in parts:
        reads = range(start + count - 1 - drafts, start + count)
        made.append(Part(request, start, count, past, reads))
        start += count
    worker.place(start, made, lambda _: tokens)
    rng = np.random.default_rng(start)
    given = torch.tensor(rng.normal(size=(start, HIDDEN)), dtype=torch.float32)
    return given, worker.model(given), worker.gather()


def moved(given: Any, out: Any) -> list[int]:
    return torch.nonzero((given != out).any(dim=1)).flatten().tolist()


def test_a_row_is_that_of_the_last_position(worker: Worker) -> None:
    follow(worker, a=Order(), b=Order(), c=None)
    given, out, gathered = step(worker, ("c", 0, 3), ("a", 0, 5), ("b", 7, 1))
    assert torch.equal(given, out)
    wanted = PROBE.fold(CALIBRATION, PROBE.labels).read(np.stack([given.numpy()] * 2))
    for request, place in (("a", 7), ("b", 8)):
        rows = gathered.step().carried(request, 1).rows
        assert np.allclose(rows[0, :2], wanted[place], atol=1e-4)
    assert gathered.step().carried("c", 1) is None
    assert gathered.step().carried("a", 0) is None


def test_only_positions_from_the_first_on_are_moved_also_when_computed_again(
    worker: Worker,
) -> None:
    follow(worker, a=plan(first=5), b=Order())
    assert moved(*step(worker, ("a", 0, 4), ("b", 0, 3))[:2]) == []
    assert moved(*step(worker, ("b", 3, 1), ("a", 4, 3))[:2]) == [2, 3]
    assert moved(*step(worker, ("a", 7, 1))[:2]) == [0]
    # Preempted, and computed again together with what was generated.
    assert moved(*step(worker, ("a", 0, 8))[:2]) == [5, 6, 7]


def test_drafts_each_have_a_row(worker: Worker) -> None:
    follow(worker, a=plan(first=3))
    _, _, gathered = step(worker, ("a", 3, 4), drafts=3)
    carried = gathered.step().carried("a", 2)
    assert carried.rows.shape == (2, 5)
    assert (carried.rows[:, 2] > 0).all()


def test_an_attention_sink_is_left_alone_as_long_as_it_lasts(worker: Worker) -> None:
    follow(worker, a=plan(first=2, sink=True))
    assert moved(*step(worker, ("a", 0, 3), tokens=[4, 4, 4])[:2]) == []
    given, out, gathered = step(worker, ("a", 3, 1), tokens=[4, 4, 4, 4])
    assert torch.equal(given, out)
    assert gathered.step().carried("a", 1).rows[0, 2:].tolist() == [0, 0, 0]
    assert moved(*step(worker, ("a", 4, 1), tokens=[4, 4, 4, 4, 9])[:2]) == [0]


def test_plans_beyond_the_slots_are_reported_not_dropped(worker: Worker) -> None:
    follow(worker, **{str(n): plan(first=0, bound=0.1 + n / 100) for n in range(3)})
    given, out, gathered = step(worker, ("0", 0, 1), ("1", 0, 1), ("2", 0, 1))
    assert moved(given, out) == [0, 1]
    carried = gathered.step().carried("2", 1)
    assert carried.steering is not None
    assert np.isnan(carried.rows[0, 2:]).all()
    worker.enter([], ["0"])
    follow(worker, d=plan(first=0, bound=0.3))
    assert moved(*step(worker, ("d", 0, 1))[:2]) == [0]


def test_a_plan_that_cannot_be_prepared_is_reported(worker: Worker) -> None:
    follow(worker, a=plan(calibration="of another file"))
    given, out, gathered = step(worker, ("a", 0, 2))
    assert torch.equal(given, out)
    assert "needs a calibration" in gathered.step().carried("a", 1).steering


def test_moves_of_an_earlier_step_are_not_taken_for_this_one(worker: Worker) -> None:
    follow(worker, a=plan(first=0))
    step(worker, ("a", 0, 3))
    follow(worker, b=plan(first=9))
    _, _, gathered = step(worker, ("b", 0, 3))
    assert gathered.step().carried("b", 1).rows[0, 2:].tolist() == [0, 0, 0]


def test_the_same_plan_moves_along_the_directions_of_another_probe(worker: Worker) -> None:
    """Also along those of a probe that reads fewer layers."""
    other = make_probe(FakeResiduals(), layers=(1,), seed=1)
    outs = []
    for probe in (PROBE, other):
        calibration = make_calibration(probe, FAKE_IDENTITY)
        blob = artifact.encode(probe, [calibration])
        worker.start(blob, FAKE_IDENTITY.digest, probe.labels)
        follow(worker, a=plan(first=0))
        given, out, gathered = step(worker, ("a", 0, 2))
        outs.append(out)
        worker.stop()
    assert not torch.equal(*outs)
    wanted = other.fold(calibration, other.labels).read(given.numpy()[None])
    assert np.allclose(gathered.step().carried("a", 1).rows[0, :2], wanted[-1], atol=1e-4)


def test_what_breaks_in_steering_ends_it_for_all_that_are_steered(
    worker: Worker, monkeypatch: Any
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("injected")

    follow(worker, a=plan(first=0), b=Order())
    with monkeypatch.context() as patch:
        patch.setattr("emoguard_vllm.buffers.move", broken)
        given, out, gathered = step(worker, ("a", 0, 1), ("b", 0, 1))
    assert torch.equal(given, out)
    assert gathered.step().carried("a", 1).steering == "RuntimeError: injected"
    assert gathered.step().carried("b", 1).steering is None
    given, out, gathered = step(worker, ("a", 1, 1))
    assert torch.equal(given, out)
    assert np.isnan(gathered.step().carried("a", 1).rows[0, 2:]).all()
    assert np.isfinite(gathered.step().carried("a", 1).rows[0, :2]).all()


def test_a_fault_of_ours_loses_the_rows_of_one_step(worker: Worker) -> None:
    follow(worker, a=Order())
    step(worker, ("a", 0, 2))
    worker.break_off("KeyError: injected")
    gathered = worker.gather()
    carried = gathered.step().carried("a", 2)
    assert carried.reading == "KeyError: injected"
    assert carried.rows.shape == (2, 5)
    assert np.isnan(carried.rows).all()
    worker.enter([], [])
    assert step(worker, ("a", 2, 1))[2].step().carried("a", 1).reading is None


def test_the_door_keeps_residuals_of_all_chunks(worker: Worker) -> None:
    follow(worker, **{"door-1": Order(door=True), "a": Order()})
    first = step(worker, ("a", 0, 2), ("door-1", 0, 3))[0]
    last = step(worker, ("door-1", 3, 2), ("a", 2, 1))[0]
    layers, blobs = worker.take("door-")
    assert layers == list(PROBE.layers)
    for blob in blobs:
        found = np.frombuffer(blob, np.float32).reshape(5, HIDDEN)
        assert np.array_equal(found, torch.cat([first[2:], last[:2]]).numpy())
    assert worker.take("door-") == ([], [])


def test_stages_pass_on_what_they_read() -> None:
    """Two workers with a layer each give what one with both gives."""
    blob = artifact.encode(PROBE, [CALIBRATION])

    def run(stages: list[tuple[int, int]]) -> Any:
        upstream, hidden = None, torch.ones(4, HIDDEN)
        for first, end in stages:
            model = Model()
            model.model.start_layer, model.model.end_layer = first, end
            layout = Layout(PROBE.layers, 4, 2, door=False, plugin="0")
            worker = Worker(model, layout, HIDDEN, 64, "cpu")
            worker.start(blob, FAKE_IDENTITY.digest, PROBE.labels)
            follow(worker, a=plan(first=1))
            worker.upstream = upstream
            worker.place(4, [Part("a", 0, 4, 0, range(3, 4))], lambda _: ())
            stage = Model()
            stage.model.layers = model.model.layers[first:end]
            hidden = stage(hidden)
            upstream = worker.relayed(4)
        return worker.gather().step().carried("a", 1).rows

    assert np.allclose(run([(0, 6)]), run([(0, 2), (2, 6)]), atol=1e-5)


def test_a_stage_that_passes_rows_on_keeps_residuals_for_the_door(worker: Worker) -> None:
    follow(worker, **{"door-1": Order(door=True)})
    worker.place(2, [Part("door-1", 0, 2, 0, range(1, 2))], lambda _: ())
    given = torch.ones(2, HIDDEN)
    worker.model(given)
    worker.relayed(2)
    layers, blobs = worker.take("door-")
    assert layers == list(PROBE.layers)
    assert all(blob == given.numpy().tobytes() for blob in blobs)
    assert len(blobs) == len(layers)


def test_slots_count_plans() -> None:
    slots = Slots(1)
    slots.take("a")
    slots.take("a")
    with pytest.raises(EmoGuardError, match="1 different plans are in force"):
        slots.take("b")
    assert not slots.leave("a")
    assert slots.leave("a")
    slots.take("b")


def test_rows_travel_unchanged() -> None:
    rows = np.arange(15, dtype=np.float32).reshape(3, 5)
    rows[1, 2] = np.nan
    found = Carried.unpack(Carried(rows, None, "broke").pack())
    assert np.array_equal(found.rows, rows, equal_nan=True)
    assert (found.reading, found.steering) == (None, "broke")
