import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard.sinks import dependence as module
from emoguard.sinks.dependence import dependence


def autoregressive(phi, rows, labels, seed=0):
    noise = np.random.default_rng(seed).normal(size=(rows, labels)) * np.sqrt(1 - phi**2)
    for n in range(1, rows):
        noise[n] += phi * noise[n - 1]
    return noise


def test_the_docstring_example_is_true():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("phi", "factor"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_an_autoregressive_process_is_found_out(phi, factor):
    actual = np.median(dependence(autoregressive(phi, 10_000, 40)))
    assert 0.9 * factor < actual < 1.4 * factor


def test_a_cycle_that_the_rows_cover_is_found_out():
    phases = np.random.default_rng(1).uniform(0, 2 * np.pi, 20)
    cycle = 0.5 * np.sin(2 * np.pi * np.arange(10_000)[:, None] / 1000 + phases)
    assert dependence(cycle + np.random.default_rng(2).normal(size=(10_000, 20))).min() > 20


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(2, 300),
    scale=st.floats(1e-3, 1e3),
    offset=st.floats(-10, 10),
)
def test_it_is_at_least_one_and_has_no_unit(seed, rows, scale, offset):
    values = np.random.default_rng(seed).normal(size=(rows, 2))
    plain = dependence(values)
    assert np.all(plain >= 1)
    assert np.allclose(dependence(scale * values + offset), plain, rtol=1e-4)


def test_rows_that_never_change_depend_on_nothing():
    assert dependence(np.full((500, 1), 3.0)).tolist() == [1.0]
