import numpy as np
import pytest

torch = pytest.importorskip("torch")

from emoguard_torch import tape as tapes  # noqa: E402
from emoguard_torch.tape import Tape  # noqa: E402


def make(slots=3, layers=2, labels=4, *, moves=False):
    nothing = torch.full((layers, slots, labels), torch.nan)
    return Tape(nothing, torch.full((layers, slots, 3), torch.nan) if moves else None)


def test_a_row_is_the_sum_over_layers():
    tape = make()
    values = torch.arange(24.0).reshape(2, 3, 4)
    tape.pending.copy_(values)
    assert torch.equal(tape.take(), values.sum(0))
    rows, moves = tape.read(1)
    assert np.array_equal(rows[0], values.sum(0).numpy())
    assert moves.shape == (1, 3, 0)


def test_a_hook_that_did_not_fire_is_seen():
    tape = make()
    tape.pending.fill_(1)
    tape.take()
    tape.pending[0].fill_(1)  # the second layer did not
    assert tape.take().isnan().all()


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 20])
def test_rows_keep_their_order_over_blocks(steps, monkeypatch):
    monkeypatch.setattr(tapes, "BLOCK", 8)
    tape = make(moves=True)
    for step in range(steps):
        tape.pending.fill_(step / 2)
        tape.moves.fill_(step / 2)
        tape.take()
    rows, moves = tape.read(steps)
    assert rows[:, 0, 0].tolist() == moves[:, 2, 1].tolist() == list(range(steps))


def test_rows_taken_in_inference_mode_are_kept_outside():
    with torch.inference_mode():
        tape = make()
        tape.pending.fill_(1)
        tape.take()
    with torch.inference_mode(mode=False):
        tape.pending = torch.ones(2, 3, 4)
        assert torch.equal(tape.take(), torch.full((3, 4), 2.0))
