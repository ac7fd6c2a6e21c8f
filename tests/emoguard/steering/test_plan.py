import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, Plan, Policy
from emoguard.steering.prepare import prepare
from emoguard.testing import FakeResiduals, make_probe

numbers = st.floats(-1, 1)
levels = st.floats(0, 1)
names = st.sampled_from(["happy", "sad", "calm"])


@pytest.mark.parametrize(
    ("sentence", "fields"),
    [
        ("finite number, got nan", {"add": {"sad": math.nan}}),
        ("finite number, got inf", {"add": {"sad": math.inf}}),
        ("Plan.add.sad: wanted a number, got true", {"add": {"sad": True}}),
        ('Plan.cap.sad: wanted a number, got "much"', {"cap": {"sad": "much"}}),
        ("finite number, got an endless int", {"add": {"sad": 10**400}}),
        ("Plan.add: wanted a mapping, got a list", {"add": ["sad"]}),
        ("Plan.add: wanted text, got 1", {"add": {1: 0.1}}),
        (r"in \[0, 1\], got 99", {"cap": {"sad": 99}}),
        (r"in \[0, 1\], got -0.1", {"floor": {"sad": -0.1}}),
        ("raise the cap or lower the floor", {"cap": {"sad": 0.2}, "floor": {"sad": 0.3}}),
        ('Plan.ablate: wanted a list, got "sad"', {"ablate": "sad"}),
        (r"Plan.ablate\.1: wanted text, got 2", {"ablate": ("sad", 2)}),
        ("Plan.layers: wanted a list, got 3", {"layers": 3}),
        (r"Plan.layers\.0: wanted a whole number, got 3.0", {"layers": (3.0,)}),
        (r"Plan.layers\.0: wanted a whole number, got true", {"layers": (True,)}),
        (r'Plan.layers\.1: wanted a whole number, got "4"', {"layers": (3, "4")}),
        (r"Plan.layers\.0: wanted a number of at least 0, got -1", {"layers": (-1,)}),
        ('Plan.prompt: wanted a boolean, got "yes"', {"prompt": "yes"}),
        ("Plan.prompt: wanted a boolean, got 1", {"prompt": 1}),
        ("Plan.probe: wanted text, got null", {"probe": None}),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_when_it_is_made(sentence, fields):
    with pytest.raises(EmoGuardError, match=sentence):
        Plan(**fields)


def test_a_plan_may_be_written_as_a_mapping():
    data = {"add": {"sad": 0.1}, "ablate": ["calm"], "layers": [3], "prompt": True}
    plan = Plan.parse(data)
    assert plan == Plan(add={"sad": 0.1}, ablate=("calm",), layers=(3,), prompt=True)
    assert Plan.parse(plan) is plan
    assert Plan.parse(plan.as_dict()) == plan
    assert Plan.parse({}) == Plan()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("calm", 'plan: wanted a mapping of keys to values, got "calm": write keys such as add'),
        (None, "plan: wanted a mapping of keys to values, got null"),
        (["calm"], "got a list"),
        ({"ad": {"sad": 0.1}}, "plan: ad: unknown; did you mean add"),
        ({"add": {"sad": "much"}}, 'plan: add.sad: wanted a number, got "much"'),
        ({"version": 2}, "plan: version: unknown; known keys: add, cap"),
    ],
)
def test_data_that_is_not_a_plan_is_refused(data, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        Plan.parse(data)


def test_an_error_does_not_repeat_a_megabyte():
    long = "x" * 10**6
    for make in (
        lambda: Plan(add={long: "much"}),
        lambda: Plan(cap={long: 0.1}, floor={long: 0.2}),
        lambda: Plan(cap={long: 0.1}).over(Plan(ablate=(long,))),
        lambda: Policy(labels=(long, long)),
        lambda: make_probe(FakeResiduals()).indices([long]),
        lambda: prepare(Plan(probe=long), make_probe(FakeResiduals()), None, 0.1),
    ):
        with pytest.raises(EmoGuardError) as raised:
            make()
        assert len(str(raised.value)) < 1000


def test_a_plan_laid_over_another_that_contradicts_it_is_refused():
    with pytest.raises(EmoGuardError, match="raise the cap or lower the floor"):
        Plan(floor={"sad": 0.5}).over(Plan(cap={"sad": 0.4}))


@pytest.mark.parametrize("mine", [{"cap": {"sad": 0.2}}, {"floor": {"sad": 1.0}}])
def test_a_label_ablated_in_the_base_takes_no_other_limit(mine):
    base = Plan(ablate=("sad",), cap={"sad": 0.9})
    with pytest.raises(EmoGuardError, match="sad is held at its neutral median"):
        Plan(**mine).over(base)
    assert Plan(cap={"sad": 0.95, "calm": 0.5}).over(base).cap == {"sad": 0.9, "calm": 0.5}


@pytest.mark.parametrize(
    ("mine", "base", "wanted"),
    [((2, 4), (2, 3), (2, 3)), ((4,), (), ()), ((), (2,), (2,)), ((), (), ())],
)
def test_laying_over_keeps_the_layers_of_the_plan_underneath(mine, base, wanted):
    over = Plan(add={"calm": 0.1}, layers=mine).over(Plan(cap={"sad": 0.9}, layers=base))
    assert over.layers == wanted
    assert Plan(add={"calm": 0.1}, layers=mine).over(Plan()).layers == mine


@given(st.dictionaries(names, numbers), st.floats(0.01, 0.5))
def test_clipping_keeps_proportions_and_comes_to_at_most_the_limit(add, most):
    plan = Plan(add=add, cap={"sad": 0.9})
    clipped = plan.clipped(most)
    assert clipped.dose <= most * (1 + 1e-12)
    assert clipped.cap == plan.cap
    if plan.dose <= most:
        assert clipped == plan
    else:
        share = most / plan.dose
        assert clipped.add == pytest.approx({k: v * share for k, v in add.items()})


def test_doses_whose_sum_is_too_large_for_a_float_are_clipped_like_others():
    plan = Plan(add={"calm": 1.5e308, "sad": -0.5e308, "afraid": 1.5e308})
    assert plan.dose == math.inf
    assert plan.clipped(0.7).add == pytest.approx({"calm": 0.3, "sad": -0.1, "afraid": 0.3})


@given(st.dictionaries(names, levels), st.dictionaries(names, levels))
def test_laying_over_tightens_limits_and_never_loosens_them(mine, base):
    cap = Plan(cap=mine).over(Plan(cap=base)).cap
    floor = Plan(floor=mine).over(Plan(floor=base)).floor
    for label in mine.keys() | base.keys():
        assert cap[label] == min(d[label] for d in (mine, base) if label in d)
        assert floor[label] == max(d[label] for d in (mine, base) if label in d)


def test_doses_of_the_same_label_are_replaced_and_ablations_united():
    over = Plan(add={"sad": 0.1}, ablate=("calm",)).over(
        Plan(add={"sad": 0.2, "happy": 0.3}, ablate=("happy", "calm"), layers=(3,), prompt=True)
    )
    assert over.add == {"sad": 0.1, "happy": 0.3}
    assert over.ablate == ("happy", "calm")
    assert over.layers == (3,)
    assert over.prompt


def test_emptiness_labels_and_plain_data():
    assert Plan().is_empty
    assert Plan(add={"sad": 0}).is_empty
    assert not Plan(cap={"sad": 1}).is_empty
    plan = Plan(add={"sad": 0.1}, cap={"calm": 0.9, "sad": 0.8}, ablate=["happy"])
    assert plan.labels == ("sad", "calm", "happy")
    assert plan.as_dict() == {
        "add": {"sad": 0.1},
        "cap": {"calm": 0.9, "sad": 0.8},
        "ablate": ("happy",),
    }
