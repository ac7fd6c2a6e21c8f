"""The plans of open blocks: each holds while its block is open, whatever the others do."""

from __future__ import annotations

from contextlib import ExitStack
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, Plan
from emoguard.steering.standing import Standing

HAPPY, SAD = Plan(add={"happy": 0.3}), Plan(add={"sad": 0.1})
PLANS = (HAPPY, SAD, Plan(add={"happy": 0.1}), Plan(cap={"sad": 0.8}), Plan(cap={"sad": 0.9}))


@given(st.lists(st.tuples(st.sampled_from(PLANS), st.integers(0, 5)), max_size=8), st.randoms())
def test_open_plans_are_in_force_in_the_order_they_were_opened(steps, random):
    standing, blocks = Standing(), []
    for plan, closing in steps:
        blocks.append((plan, ExitStack()))
        blocks[-1][1].enter_context(standing.during(plan))
        if closing < len(blocks):
            blocks.pop(closing)[1].close()
        folded = reduce(lambda base, each: each.over(base), [p for p, _ in blocks], Plan())
        assert standing.plan() == folded
    random.shuffle(blocks)
    for _, block in blocks:
        block.close()
    assert standing.plan() == Plan()


def test_one_plan_in_two_blocks_holds_until_both_end():
    standing = Standing()
    first, second = standing.during(HAPPY), standing.during(HAPPY)
    first.__enter__()
    second.__enter__()
    second.__exit__(None, None, None)
    assert standing.plan() == HAPPY
    first.__exit__(None, None, None)
    assert standing.plan() == Plan()


def test_a_plan_that_is_refused_is_not_in_force():
    standing = Standing()

    def refuse(plan):
        if plan == SAD:
            raise EmoGuardError("no")

    with standing.during(HAPPY, refuse):
        with pytest.raises(EmoGuardError), standing.during(SAD, refuse):
            pytest.fail("entered with a plan that was refused")
        assert standing.plan() == HAPPY
    with pytest.raises(ValueError, match="by the caller"), standing.during(HAPPY):
        raise ValueError("by the caller")
    assert standing.plan() == Plan()


def test_a_mapping_is_a_plan_and_anything_else_is_refused_before_the_block():
    standing = Standing()
    with standing.during({"add": {"happy": 0.3}}):
        assert standing.plan() == HAPPY
    with pytest.raises(EmoGuardError, match="plan: wanted a mapping"):
        standing.during("happy")
    with pytest.raises(EmoGuardError, match="plan: ad: unknown"):
        standing.during({"ad": {}})
