import numpy as np
import pytest

from emoguard import Alert
from emoguard.testing import (
    FailingSink,
    FakeResiduals,
    ListSink,
    check_sink,
    every_kind_of_report,
    make_probe,
)


def test_fake_residuals_depend_on_token_position_and_layer_only():
    door = FakeResiduals()
    one, two = door.residuals([1, 5, 5], [1, 2]), FakeResiduals().residuals([1, 5, 5], [2])
    assert one.shape == (2, 3, 32)
    assert np.array_equal(one[1], two[0])
    assert not np.array_equal(one[0], one[1])


def test_probes_made_twice_are_the_same():
    door = FakeResiduals()
    assert np.array_equal(make_probe(door, seed=4).read, make_probe(door, seed=4).read)
    assert not np.array_equal(make_probe(door, seed=4).read, make_probe(door, seed=5).read)


def test_a_sound_sink_sees_every_kind_of_report():
    results = []

    def make():
        results.append(ListSink(alerting=True))
        return results[-1]

    check_sink(make)
    assert len(results[0].reports) == len(every_kind_of_report())


class MisnamingSink:
    def report(self, report):
        return [Alert("m", "happy", "info", "about another", "another")]


class TalkingSink:
    def report(self, report):
        return ["an alert"]


def test_unsound_sinks_are_caught():
    with pytest.raises(RuntimeError, match="cannot take"):
        check_sink(FailingSink)
    with pytest.raises(AssertionError, match="names another report"):
        check_sink(MisnamingSink)
    with pytest.raises(AssertionError, match="wanted alerts"):
        check_sink(TalkingSink)
