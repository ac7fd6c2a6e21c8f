import math

import numpy as np
import pytest

from emoguard.steering.moves import Moves
from emoguard.steering.plan import Plan
from emoguard.steering.prepare import prepare
from emoguard.steering.rounding import FLOAT32
from emoguard.testing import FakeResiduals, make_probe, measure_calibration

DOOR = FakeResiduals()
PROBE = make_probe(DOOR)
STEERING = prepare(Plan(add={"happy": 0.05}), PROBE, measure_calibration(DOOR, PROBE), 0.1)
H = DOOR.residuals([5, 9], (1, 2))[:, -1]


def test_without_steering_nothing_moves():
    moves = Moves(None, FLOAT32)
    assert moves(1, H[0]) is None
    assert moves.take() is None


def test_the_doses_of_all_layers_are_added_up():
    moves = Moves(STEERING, FLOAT32)
    moved = [moves(layer, h) for layer, h in zip((1, 2), H, strict=True)]
    dose, clipped, faulted = moves.take()
    each = [np.linalg.norm(m - h) / np.linalg.norm(h) for m, h in zip(moved, H, strict=True)]
    assert dose == pytest.approx(sum(each), rel=1e-5)
    assert (clipped, faulted) == (0, 0)


def test_a_layer_that_did_not_act_is_seen():
    moves = Moves(STEERING, FLOAT32)
    moves(1, H[0])
    assert all(map(math.isnan, moves.take()))
    moves(1, H[0])
    moves(2, H[1])
    moves.forget()
    assert all(map(math.isnan, moves.take()))


def test_a_residual_that_is_left_alone_has_no_dose():
    moves = Moves(STEERING, FLOAT32)
    for layer in STEERING.layers:
        moves.spare(layer)
    assert moves.take() == (0, 0, 0)


def test_a_residual_that_is_not_finite_is_counted():
    moves = Moves(STEERING, FLOAT32)
    assert moves(1, np.full_like(H[0], np.inf)) is None
    moves(2, H[1])
    assert moves.take()[2] == 1
