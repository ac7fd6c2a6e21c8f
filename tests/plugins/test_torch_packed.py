"""A packed row is read and moved at the places of its sequences, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from emoguard_torch.packed import Places, Span, steer_at
from emoguard_torch.steer import MOVES, Layer, gather

from emoguard.steering.intervention import Intervention, Steering
from emoguard.steering.plan import Plan

HIDDEN = 24
SPANS = [
    Span(start=0, past=0, length=5, is_read=True, steered=3),  # a prompt: its last two
    Span(start=5, past=9, length=1, is_read=True),  # no plan
    Span(start=6, past=4, length=3, is_read=False, steered=6),  # a chunk of a prompt
    Span(start=9, past=30, length=1, is_read=True, steered=6),  # a token
    Span(start=10, past=0, length=2, is_read=True, steered=2),  # an attention sink, all of it
]


def plan(seed: int, layer: int = 0) -> Steering:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(1, HIDDEN)).astype(np.float32)
    direction /= np.linalg.norm(direction)
    limits = np.full(1, -np.inf, np.float32), np.full(1, 0.1, np.float32)
    shift = (rng.normal(size=HIDDEN) / 9).astype(np.float32)
    gram = np.ones((1, 1), np.float32)
    return Steering(Plan(), 0.2, (Intervention(layer, shift, direction, *limits, gram, 0.2),))


def layer_of(plans: list[Steering], places: Places) -> Layer:
    unused = torch.empty((len(plans), MOVES))
    moves = torch.full((len(places.moved), MOVES), torch.nan)
    return gather(plans, 0, "cpu", unused).writing(moves)


def test_places_follow_the_positions_of_each_sequence() -> None:
    places = Places.of(SPANS, "cpu")
    assert places.read.tolist() == [4, 5, 9, 11]
    assert places.moved.tolist() == [3, 4, 8, 9]
    assert places.owners.tolist() == [0, 0, 1, 2]
    assert places.moves() == [1, None, 3, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_all_at_once_equals_one_by_one(dtype: torch.dtype) -> None:
    places = Places.of(SPANS, "cpu")
    plans = [plan(1), plan(2, layer=7), plan(3), plan(4)]  # the second acts elsewhere
    h = torch.tensor(np.random.default_rng(0).normal(size=(1, 12, HIDDEN))).to(dtype)
    ours = layer_of(plans, places)
    one_by_one: Any = steer_at(ours, (h, "more"), places)
    theirs = replace(layer_of(plans, places), marks=None)
    at_once = steer_at(theirs, h, places)
    near = 4 * torch.finfo(torch.float32 if dtype is torch.float64 else dtype).eps
    assert one_by_one[1] == "more"
    assert torch.allclose(one_by_one[0].double(), at_once.double(), rtol=near, atol=near)
    assert torch.allclose(ours.moves, theirs.moves, rtol=1e-4, atol=1e-6)
    changed = (at_once != h).any(dim=-1)[0].nonzero()[:, 0].tolist()
    assert changed == [3, 4, 9]
    kept = [n for n in range(12) if n not in changed]
    assert torch.equal(one_by_one[0][0, kept], h[0, kept])
