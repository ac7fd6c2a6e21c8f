import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError
from emoguard.probe.witness import Witness
from emoguard.testing import FakeResiduals, make_calibration, make_probe

DOOR = FakeResiduals()
LABELS = ("happy", "sad", "calm")
PROBE = make_probe(DOOR, LABELS)


def formula(probe, residuals):
    """Sum over layers of w (h - mu) R^T, in float64."""
    parts = [
        float(w) * (h.astype(np.float64) - mu.astype(np.float64)) @ r.T.astype(np.float64)
        for w, h, mu, r in zip(probe.weights, residuals, probe.centre, probe.read, strict=True)
    ]
    return np.sum(parts, axis=0)


def uneven(calibration, seed=0):
    rng = np.random.default_rng(seed)
    k = len(calibration.scale)
    return dataclasses.replace(
        calibration,
        location=rng.normal(size=k).astype(np.float32),
        scale=rng.uniform(0.1, 5, k).astype(np.float32),
    )


@given(seed=st.integers(0, 2**32 - 1), layers=st.sampled_from([(1,), (1, 2), (0, 2, 4)]))
def test_projection_equals_the_formula(seed, layers):
    probe = dataclasses.replace(
        make_probe(DOOR, LABELS, layers, seed),
        weights=np.random.default_rng(seed).normal(size=len(layers)).astype(np.float32),
    )
    residuals = np.random.default_rng(seed).normal(size=(len(layers), 5, 32)).astype(np.float32)
    assert np.allclose(probe.project(residuals), formula(probe, residuals), atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1))
def test_folded_reading_equals_projection_minus_location_over_scale(seed):
    calibration = uneven(make_calibration(PROBE, DOOR.identity), seed)
    residuals = np.random.default_rng(seed).normal(size=(2, 5, 32)).astype(np.float32)
    wanted = (formula(PROBE, residuals) - calibration.location) / calibration.scale
    assert np.allclose(PROBE.fold(calibration).read(residuals), wanted, atol=1e-4)


def test_reading_keeps_its_precision_at_residual_norms_of_36000():
    rng = np.random.default_rng(3)
    spike = np.zeros(32, np.float32)
    spike[7] = 36_000
    probe = dataclasses.replace(PROBE, centre=PROBE.centre + spike)
    residuals = (rng.normal(size=(2, 50, 32)) * 20 + spike).astype(np.float32)
    calibration = uneven(make_calibration(probe, DOOR.identity))
    wanted = (formula(probe, residuals) - calibration.location) / calibration.scale
    assert np.abs(probe.fold(calibration).read(residuals) - wanted).max() < 1e-3


def test_parts_of_layers_sum_to_the_reading_for_any_leading_shape():
    readout = PROBE.fold(make_calibration(PROBE, DOOR.identity))
    residuals = np.random.default_rng(1).normal(size=(2, 3, 4, 32)).astype(np.float32)
    summed = readout.part(0, residuals[0]) + readout.part(1, residuals[1])
    assert summed.shape == (3, 4, 3)
    assert np.allclose(summed.reshape(12, 3), readout.read(residuals.reshape(2, 12, 32)), atol=1e-5)


@given(labels=st.lists(st.sampled_from(LABELS), min_size=1, max_size=3, unique=True))
def test_a_subset_of_labels_reads_the_same_columns_in_the_order_asked_for(labels):
    calibration = uneven(make_calibration(PROBE, DOOR.identity))
    residuals = DOOR.residuals([1, 2, 3], PROBE.layers)
    readout = PROBE.fold(calibration, labels)
    whole = PROBE.fold(calibration).read(residuals)
    assert readout.labels == tuple(labels)
    assert np.allclose(readout.read(residuals), whole[:, PROBE.indices(labels)], atol=1e-6)


def test_an_unknown_label_is_named_with_the_known_ones():
    with pytest.raises(EmoGuardError, match="unknown label glad: this probe has happy, sad, calm"):
        PROBE.fold(None, ["glad"])


@pytest.mark.parametrize("change", [{"hidden": 33}, {"layers": 7}])
def test_a_model_of_other_size_is_refused(change):
    with pytest.raises(EmoGuardError, match="emoguard fit --model"):
        PROBE.check_fits(dataclasses.replace(DOOR.identity, **change))


def test_a_model_of_the_same_size_fits():
    PROBE.check_fits(DOOR.identity)


@pytest.mark.parametrize("name", ["read", "steer", "centre", "weights"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_directions_that_are_not_finite_are_refused(name, bad):
    array = getattr(PROBE, name).copy()
    array.flat[0] = bad
    with pytest.raises(EmoGuardError, match=f"{name} holds NaN or infinity"):
        dataclasses.replace(PROBE, **{name: array})


@pytest.mark.parametrize("name", ["read", "steer", "centre", "weights"])
def test_arrays_of_other_shapes_are_refused(name):
    with pytest.raises(EmoGuardError, match="must have shape"):
        dataclasses.replace(PROBE, **{name: getattr(PROBE, name)[:1]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": ()}, "labels must be distinct"),
        ({"labels": ("a", "a", "b")}, "labels must be distinct"),
        ({"axes": ("valence",)}, "axes must be labels"),
        ({"layers": ()}, "layers must be increasing"),
        ({"layers": (2, 1)}, "layers must be increasing"),
        ({"layers": (1, 1)}, "layers must be increasing"),
        ({"layers": (-1, 1)}, "layers must lie in"),
        ({"layers": (1, 5)}, "the last block is never read"),
        ({"steer": PROBE.steer * 2}, "must have length 1"),
        ({"witness": Witness(np.array([1]), np.zeros((2, 3, 0, 32)))}, "witness must be"),
        ({"witness": Witness(np.array([1, -2]), np.zeros((2, 3, 1, 32)))}, "witness must be"),
        ({"witness": Witness(np.zeros(513, int), np.zeros((2, 3, 512, 32)))}, "witness must be"),
    ],
)
def test_unsound_probes_are_refused(change, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        dataclasses.replace(PROBE, **change)
