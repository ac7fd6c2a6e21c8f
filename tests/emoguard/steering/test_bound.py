import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emoguard import EmoGuardError, Guard, Plan, Policy
from emoguard.probe.calibration import QUANTILES
from emoguard.steering.bound import intervene
from emoguard.steering.intervention import Intervention
from emoguard.steering.limit import Limit, limit
from emoguard.steering.policy import SteeringPolicy
from emoguard.steering.prepare import add, prepare
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

DOOR = FakeResiduals()
PROBE = make_probe(DOOR, ("happy", "sad", "calm"), (1, 2))
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
HIDDEN = PROBE.hidden
DTYPES = (np.float16, np.float32, np.float64)


def ready(plan, bound=0.1, probe=PROBE, calibration=CALIBRATION):
    return prepare(plan, probe, calibration, bound)


def make_intervention(directions, low, high, shift=None, budget=0.5):
    unit = np.atleast_2d(np.asarray(directions, np.float64))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    shift = np.zeros(unit.shape[1]) if shift is None else shift
    low, high = (np.broadcast_to(np.asarray(x, np.float32), len(unit)) for x in (low, high))
    return Intervention(
        0,
        np.asarray(shift, np.float32),
        unit.astype(np.float32),
        low,
        high,
        (unit @ unit.T).astype(np.float32),
        budget,
    )


def rows(count=50, hidden=HIDDEN, seed=0, scale=10.0):
    return (np.random.default_rng(seed).normal(size=(count, hidden)) * scale).astype(np.float32)


def exact_dose(before, after):
    """‖h' - h‖ and ‖h‖ in float64 from the stored values."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    return np.linalg.norm(after - before, axis=1), np.linalg.norm(before, axis=1)


# What each verb means, on one direction.


def test_add_moves_by_the_dose_times_the_reference_norm_along_the_unit_direction():
    calibration = dataclasses.replace(CALIBRATION, norms=np.array([40, 90], np.float32))
    steering = ready(Plan(add={"calm": 0.06}), calibration=calibration)
    column = PROBE.labels.index("calm")
    for n, intervention in enumerate(steering.interventions):
        h = rows(scale=100)
        moved = intervene(h, intervention).h
        wanted = 0.06 / 2 * calibration.norms[n] * PROBE.steer[n, column]
        assert np.allclose(moved - h, wanted, atol=1e-4)


def test_negative_doses_move_away():
    up, down = (ready(Plan(add={"sad": d})).interventions[0] for d in (0.05, -0.05))
    assert np.allclose(up.shift, -down.shift)


def test_several_doses_add_up():
    both = ready(Plan(add={"sad": 0.02, "calm": -0.03})).interventions[0]
    sad = ready(Plan(add={"sad": 0.02})).interventions[0]
    calm = ready(Plan(add={"calm": -0.03})).interventions[0]
    assert np.allclose(both.shift, sad.shift + calm.shift, atol=1e-7)


@pytest.mark.parametrize(
    ("low", "high"), [(-np.inf, 3.0), (1.0, np.inf), (-1.0, 2.0), (0.5, 0.5)], ids=str
)
def test_one_limit_moves_exactly_as_far_as_it_must_and_only_along_its_direction(low, high):
    h, v = rows(seed=1), PROBE.steer[0, 0]
    moved = intervene(h, make_intervention(v, low, high)).h
    along = h @ v
    assert np.allclose(moved @ v, np.clip(along, low, high), atol=2e-2)
    inside = (along >= low) & (along <= high)
    if high > low:
        assert inside.any()
        assert np.array_equal(moved[inside], h[inside])
    step = moved - h
    assert np.allclose(step - np.outer(step @ v, v), 0, atol=1e-4)


def test_a_cap_holds_in_the_stored_values_without_tolerance():
    v = PROBE.steer[0, 0].astype(np.float64)
    v /= np.linalg.norm(v)
    for dtype in DTYPES:
        h = rows(3000, seed=2).astype(dtype)
        moved = intervene(h, make_intervention(v, -4.0, 5.0))
        kept = moved.h[~moved.clipped].astype(np.float64) @ v
        assert len(kept) > 2000
        assert kept.max() <= 5.0
        assert kept.min() >= -4.0


@given(
    hnp.arrays(np.float64, (4, 8), elements=st.floats(-1, 1)),
    hnp.arrays(np.float64, (5, 4), elements=st.floats(-20, 20)),
    hnp.arrays(np.float32, 4, elements=st.floats(-3, 0, width=32)),
    hnp.arrays(np.float32, 4, elements=st.floats(0, 3, width=32)),
)
def test_several_limits_give_the_nearest_point_that_satisfies_them(directions, along, low, high):
    directions = directions + np.eye(4, 8) * 4  # correlated, up to a cosine of about .8
    intervention = dataclasses.replace(make_intervention(directions, low, high), low=low, high=high)
    limits = [
        Limit(float(low[i]), float(high[i]), tuple(intervention.gram[i].tolist())) for i in range(4)
    ]
    actual = [limit(row.tolist(), limits, 0.0) for row in along]
    steps = np.array([np.zeros(4) if each is None else each for each, _ in actual])
    missed = np.array([each for _, each in actual])
    after = along + steps @ intervention.gram
    hold = np.all((after >= low - 1e-5) & (after <= high + 1e-5), axis=1)
    assert np.all(hold | missed)
    assert hold.all()
    # Nearest (Karush, Kuhn, Tucker): a push down only at the upper limit, up only at the lower.
    assert np.all((steps >= -1e-9) | (np.abs(after - high) < 1e-5))
    assert np.all((steps <= 1e-9) | (np.abs(after - low) < 1e-5))


def test_where_sweeps_do_not_suffice_the_row_says_clipped():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(24, 64)) + 2 * rng.normal(size=64)  # cosines around .8
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    moved = intervene(rows(2000, 64, scale=30), make_intervention(directions, -40, 40, budget=0.5))
    hold = np.all(np.abs(moved.h @ directions.T) <= 40 + 1e-3, axis=1)
    assert 0 < moved.clipped.mean() < 0.5
    assert np.all(hold | moved.clipped)


def test_limits_that_hold_already_move_nothing():
    h = rows()
    moved = intervene(h, make_intervention(PROBE.steer[0], -1e6, 1e6))
    assert np.array_equal(moved.h, h)
    assert not moved.dose.any()


def test_a_cap_wins_over_a_dose():
    calibration = dataclasses.replace(CALIBRATION, norms=np.array([100, 100], np.float32))
    plan = Plan(add={"sad": 0.2}, cap={"sad": 0.9})
    for n, intervention in enumerate(ready(plan, 0.5, calibration=calibration).interventions):
        moved = intervene(rows(scale=30), intervention)
        at = np.quantile(calibration.limits[n, :, 1], 0.9)
        held = moved.h[~moved.clipped] @ PROBE.steer[n, 1]
        assert len(held) > 25
        assert np.all(held <= at + 1e-3)


def test_ablate_holds_at_the_neutral_median_inside_a_cap_and_a_floor():
    calibration = dataclasses.replace(CALIBRATION, limits=CALIBRATION.limits + np.float32(0.7))
    for plan, wanted in (
        (Plan(ablate=("sad",)), 0.7),
        (Plan(ablate=("sad",), cap={"sad": 0.25}), 0.7 - 1.5),
        (Plan(ablate=("sad",), floor={"sad": 0.75}), 0.7 + 1.5),
    ):
        (intervention, _) = ready(plan, 0.5, calibration=calibration).interventions
        assert intervention.low == intervention.high == pytest.approx(wanted, abs=1e-5)


# The bound.

doses = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1e-6, -1e-6, 0.05, 0.5, 1e6, -1e6])
levels = st.floats(0, 1)
labels = st.sampled_from(PROBE.labels)


@st.composite
def plans(draw):
    cap = draw(st.dictionaries(labels, levels))
    floor = {k: min(v, cap.get(k, 1.0)) for k, v in draw(st.dictionaries(labels, levels)).items()}
    return Plan(
        add=draw(st.dictionaries(labels, doses)),
        cap=cap,
        floor=floor,
        ablate=tuple(draw(st.sets(labels))),
        layers=tuple(draw(st.sets(st.sampled_from(PROBE.layers)))),
    )


@given(
    plans(),
    st.floats(1e-6, 0.5),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
    st.integers(-40, 38),
)
@settings(max_examples=4 * settings.default.max_examples)
@example(Plan(add={"sad": 1e6}), 0.1, np.float16, 0, -7)
@example(Plan(add={"sad": 1e6}), 0.1, np.float32, 0, -40)
def test_dose_never_exceeds_the_bound(plan, bound, dtype, seed, exponent):
    calibration = dataclasses.replace(CALIBRATION, norms=np.array([30, 60], np.float32))
    with np.errstate(over="ignore", under="ignore"):
        h = (rows(64, seed=seed, scale=1.0) * 10.0**exponent).astype(dtype)
    for intervention in ready(plan, bound, calibration=calibration).interventions:
        moved = intervene(h, intervention)
        assert moved.h.dtype == h.dtype
        finite = np.isfinite(h).all(axis=1)
        change, length = exact_dose(h[finite], moved.h[finite])
        assert np.all(change <= intervention.budget * length)
        assert np.array_equal(moved.h[~finite], h[~finite], equal_nan=True)
        assert moved.faulted[~finite].all()


sizes = st.floats(-45, 38.4)


@given(
    st.tuples(sizes, sizes, sizes),
    st.floats(-8, -0.31),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=4 * settings.default.max_examples)
@example((35.0, 0.0, -7.0), -1.0, np.float32, 0)
@example((38.4, 38.4, -11.0), -1.0, np.float32, 1)
def test_numbers_that_no_file_may_hold_never_exceed_the_bound(exponents, bound, dtype, seed):
    step, limit, long = exponents
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, HIDDEN)) * 0.1 + rng.normal(size=HIDDEN)
    with np.errstate(over="ignore", under="ignore"):
        shift = (PROBE.steer[0, 0] * 10.0**step).astype(np.float32)
        h = (rows(16, seed=seed, scale=1.0) * 10.0**long).astype(dtype)
        high = np.float32(-(10.0**limit))
        at = make_intervention(directions, -np.inf, high, shift, 10.0**bound)
        moved = intervene(h, at)
    finite = np.isfinite(h).all(axis=1)
    change, length = exact_dose(h[finite], moved.h[finite])
    assert np.all(change <= at.budget * length)
    assert np.all(moved.dose[moved.faulted] == 0)


@pytest.mark.parametrize(
    ("field", "value"), [("norms", 1e35), ("norms", 1e-20), ("limits", -1e35), ("limits", 3e38)]
)
def test_lengths_that_no_residual_has_are_refused_with_the_file(field, value):
    array = getattr(CALIBRATION, field).copy()
    array[(0,) * array.ndim if value < 1 else (-1,) * array.ndim] = value
    wrong = dataclasses.replace(CALIBRATION, **{field: array})
    with pytest.raises(EmoGuardError, match=f"calibration {field} hold .*no residual is that long"):
        Guard(PROBE, [wrong])


def test_the_budgets_of_the_layers_add_up_to_the_bound():
    for layers, count in (((), 2), ((1,), 1)):
        result = ready(Plan(add={"sad": 1e6}, layers=layers), 0.3).interventions
        assert len(result) == count
        assert math.fsum(i.budget for i in result) == pytest.approx(0.3)


def test_a_step_that_is_cut_short_keeps_its_direction_and_says_so():
    shift = PROBE.steer[0, 0] * 1000
    moved = intervene(rows(), make_intervention(np.empty((0, HIDDEN)), [], [], shift, 0.1))
    assert moved.clipped.all()
    step = moved.h - rows()
    assert np.allclose(moved.dose, 0.1, rtol=1e-3)
    assert np.allclose(step / np.linalg.norm(step, axis=1)[:, None], PROBE.steer[0, 0], atol=1e-3)


def test_a_bound_below_the_rounding_of_the_dtype_changes_nothing():
    shift = PROBE.steer[0, 0]
    intervention = make_intervention(np.empty((0, HIDDEN)), [], [], shift, 2.0**-11)
    h = rows().astype(np.float16)
    moved = intervene(h, intervention)
    assert np.array_equal(moved.h, h)
    assert moved.clipped.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_with_a_number_that_is_not_finite_is_left_alone_and_counted(bad):
    h = rows(4)
    h[2, 5] = bad
    moved = intervene(h, ready(Plan(add={"sad": 0.05}, cap={"calm": 0.5})).interventions[0])
    assert moved.faulted.tolist() == [False, False, True, False]
    assert np.array_equal(moved.h[2], h[2], equal_nan=True)
    assert not np.array_equal(moved.h[1], h[1])
    assert moved.dose[2] == 0


def test_a_zero_residual_stays_zero():
    moved = intervene(
        np.zeros((3, HIDDEN), np.float32), ready(Plan(add={"sad": 1})).interventions[0]
    )
    assert not moved.h.any()
    assert not moved.faulted.any()
    assert moved.clipped.all()


def test_an_empty_step_keeps_every_bit():
    h = rows()
    h[0, :4] = [-0.0, 0.0, 1e-45, -1e-45]
    moved = intervene(h, ready(Plan(add={"sad": 0.0}, cap={"calm": 1.0})).interventions[0])
    still = moved.dose == 0
    assert still.any()
    assert np.array_equal(moved.h[still].view(np.uint32), h[still].view(np.uint32))


# Plans against probe and calibration.


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (Plan(add={"hapy": 0.05}), "unknown label hapy"),
        (Plan(add={"sad": 0.05}, layers=(0,)), "must be among 1, 2"),
        (Plan(add={"sad": 0.05}, probe="another"), "made for probe another"),
    ],
)
def test_a_plan_that_does_not_fit_the_probe_is_refused(plan, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        ready(plan)


def test_a_plan_may_name_its_probe_with_or_without_digest():
    probe = dataclasses.replace(PROBE, name="mine@12345678")
    for name in ("mine", "mine@12345678"):
        assert ready(Plan(add={"sad": 0.05}, probe=name), probe=probe).layers == (1, 2)
    with pytest.raises(EmoGuardError, match="made for probe mine@0"):
        ready(Plan(add={"sad": 0.05}, probe="mine@0"), probe=probe)


def test_steering_without_a_calibration_is_refused():
    with pytest.raises(EmoGuardError, match="emoguard calibrate"):
        ready(Plan(add={"sad": 0.05}), calibration=None)


@pytest.mark.parametrize("bound", [0, -0.1, 0.51, np.nan, np.inf])
def test_a_bound_outside_its_range_is_refused(bound):
    with pytest.raises(EmoGuardError, match="bound"):
        ready(Plan(add={"sad": 0.05}), bound)


def test_limits_are_neutral_quantiles_of_h_along_v():
    steps = np.linspace(0, 1, QUANTILES, dtype=np.float32)
    limits = np.array([steps[:, None] * [10, 20, 30], steps[:, None] * [1, 2, 3]], np.float32)
    calibration = dataclasses.replace(CALIBRATION, limits=limits)
    plan = Plan(cap={"sad": 0.99}, floor={"calm": 0.105})
    first, second = ready(plan, calibration=calibration).interventions
    assert first.high == pytest.approx([19.8, np.inf])
    assert first.low == pytest.approx([-np.inf, 3.15])
    assert second.high == pytest.approx([1.98, np.inf])
    assert second.low == pytest.approx([-np.inf, 0.315])


# Policy, plan and guard together.


def guarded(**policy):
    return Guard(PROBE, [CALIBRATION], Policy(steering=SteeringPolicy(**policy)))


@pytest.mark.parametrize("plan", [None, Plan(), Plan(add={"sad": 0.0})])
def test_a_plan_that_does_nothing_is_no_steering(plan):
    assert guarded().site(FAKE_IDENTITY).steering(plan) is None


def test_a_dose_beyond_the_policy_is_refused_or_clipped_and_said():
    plan = Plan(add={"sad": 0.3, "calm": -0.1}, cap={"happy": 0.9})
    with pytest.raises(EmoGuardError, match=r"come to 0\.4.*max_dose_ratio 0\.2"):
        guarded(max_dose_ratio=0.2).site(FAKE_IDENTITY).steering(plan)
    steering = guarded(max_dose_ratio=0.2, on_excess="clip").site(FAKE_IDENTITY).steering(plan)
    assert steering.asked == plan
    assert steering.plan.add == pytest.approx({"sad": 0.15, "calm": -0.05})
    assert steering.plan.cap == plan.cap


def test_the_standing_plan_holds_without_being_asked_and_cannot_be_loosened():
    guard = guarded(plan=Plan(cap={"sad": 0.9}, floor={"calm": 0.2}))
    assert guard.site(FAKE_IDENTITY).steering(None).plan.cap == {"sad": 0.9}
    loose = Plan(add={"happy": 0.05}, cap={"sad": 1.0}, floor={"calm": 0.0})
    assert guard.site(FAKE_IDENTITY).steering(loose).plan == Plan(
        add={"happy": 0.05}, cap={"sad": 0.9}, floor={"calm": 0.2}
    )
    tight = Plan(cap={"sad": 0.5})
    assert guard.site(FAKE_IDENTITY).steering(tight).plan.cap == {"sad": 0.5}


def test_steering_another_file_than_the_calibrated_one_is_refused():
    other = dataclasses.replace(FAKE_IDENTITY, weights="1" * 64)
    with pytest.raises(EmoGuardError, match="exactly this model file"):
        guarded().site(other).steering(Plan(add={"sad": 0.05}))


def test_add_takes_unit_directions():
    actual = add(np.eye(2, 5), np.array([0.1, -0.2]), 10.0)
    assert np.allclose(actual, [1, -2, 0, 0, 0])
