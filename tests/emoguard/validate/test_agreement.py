"""Two files on the same responses, and rows that do not depend on their company."""

import numpy as np
import pytest

from emoguard import Guard
from emoguard.runtime.speaker import Generated
from emoguard.testing import (
    FakeResiduals,
    FakeSpeaker,
    make_calibration,
    make_probe,
)
from emoguard.validate.agreement import (
    HALF,
    TOLERANCE,
    Invariance,
    agreement,
    batch_difference,
    largest_gap,
    padding_difference,
    read_z,
)

DOOR = FakeResiduals()
PROBE = make_probe(DOOR, ("happy", "sad"))
CALIBRATION = make_calibration(PROBE, DOOR.identity)
TEXTS = ["one two three four five six", "seven eight nine ten", "eleven twelve thirteen x y z"]


def rows(count=12, tokens=20, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(tokens, 2)).astype(np.float32) for _ in range(count)]


def compared(z, other, again=None, levels=((9.0, 9.0), (9.0, 9.0)), window=5):
    both = tuple(np.array(each) for each in levels)
    return agreement(("A", "B"), z=z, other=other, again=again or z, levels=both, window=window)


def test_a_file_agrees_with_itself_in_everything():
    z = rows()
    result = compared(z, z)
    assert (result.gap, result.gap_95, result.rerun) == (0, 0, 0)
    assert result.rank == pytest.approx(1)
    assert (result.flags, result.both, result.either) == (1, 0, 0)
    assert (result.file, result.other, result.responses) == ("A", "B", 12)


def test_a_constant_shift_is_the_gap_and_leaves_ranks_alone():
    z = rows()
    result = compared(z, [each + 0.25 for each in z])
    assert result.gap == pytest.approx(0.25, abs=1e-6)
    assert result.gap_95 == pytest.approx(0.25, abs=1e-6)
    assert result.rank == pytest.approx(1)


def test_the_rank_is_that_of_the_worst_label():
    z = rows()
    other = [each * np.array([1, -1], np.float32) for each in z]
    assert compared(z, other).rank == pytest.approx(-1)


def test_flags_are_what_rises_over_the_own_level_of_each_file():
    quiet, loud = np.zeros((20, 2), np.float32), np.full((20, 2), 3, np.float32)
    z, other = [loud, loud, quiet, quiet], [loud, quiet, quiet, quiet]
    result = compared(z, other, levels=((2, 9), (2, 9)))
    assert (result.both, result.either) == (1, 2)
    assert result.flags == 1 - 1 / 8
    result = compared(z, other, levels=((2, 2), (4, 4)))
    assert (result.both, result.either) == (0, 4)


def test_a_response_shorter_than_the_window_has_no_flag():
    loud = np.full((3, 2), 3, np.float32)
    result = compared([loud] * 4, [loud] * 4, levels=((2, 2), (2, 2)))
    assert (result.both, result.either) == (0, 0)


def test_the_largest_difference_of_a_second_reading_is_told():
    z = rows()
    again = [each.copy() for each in z]
    again[3][7, 1] += 0.5
    assert compared(z, z, again).rerun == pytest.approx(0.5, abs=1e-6)


def test_z_of_a_response_are_the_rows_that_a_report_averages():
    generated = Generated([1, 7, 9], [20, 21, 22])
    (z,) = read_z(DOOR, PROBE, CALIBRATION, [generated], ["sad"])
    ids = generated.prompt_ids + generated.token_ids[:-1]
    whole = PROBE.fold(CALIBRATION, ["sad"]).read(DOOR.residuals(ids, PROBE.layers))
    np.testing.assert_allclose(z, whole[2:], rtol=1e-5)


def test_a_door_that_reads_one_by_one_is_invariant():
    assert batch_difference(DOOR, TEXTS, PROBE.layers) <= TOLERANCE


def test_company_that_moves_a_mean_is_found():
    class Leaking(FakeResiduals):
        """A batch whose texts see each other."""

        def pooling(self, layers, *, texts, tokens):
            from contextlib import nullcontext

            def run(batch, starts):
                means = [
                    self.residuals(ids, layers)[:, start:].mean(axis=1)
                    for ids, start in zip(batch, starts, strict=True)
                ]
                return np.array(means, np.float32) * (1 + 0.01 * (len(batch) - 1))

            return nullcontext(run)

    difference = batch_difference(Leaking(), TEXTS, PROBE.layers)
    assert difference == pytest.approx(0.02, rel=0.1)
    assert not Invariance(difference, None).holds


def test_a_speaker_that_makes_no_batches_has_no_padding_to_differ_by():
    assert padding_difference(FakeSpeaker(), Guard(PROBE), TEXTS) is None
    assert Invariance(0.0, None).holds
    assert not Invariance(0.0, 2 * TOLERANCE).holds


def test_a_model_in_16_bits_may_round():
    assert Invariance(0.007, 0.06, HALF).holds
    assert not Invariance(0.03, 0.06, HALF).holds
    assert not Invariance(0.007, 1.0, HALF).holds
    assert not Invariance(0.007, 0.0).holds


def test_rows_are_compared_until_their_tokens_differ():
    z = np.zeros((4, 2))
    moved = np.array([[0.1, 0.0], [0.0, -0.2], [0.3, 0.0], [9.0, 9.0]])
    assert largest_gap(([5, 6, 7, 8], z), ([5, 6, 9, 8], moved)) == 0.3
    assert largest_gap(([5, 6, 7, 8], z), ([1, 6, 7, 8], moved)) == 0.1
    assert largest_gap(([5, 6, 7, 8], z), ([5, 6, 7, 8], moved)) == 9.0
