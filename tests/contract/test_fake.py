"""The smallest runtime there is keeps the contract: what a plug-in needs is no more than this."""

import ast
import dataclasses
import inspect

import pytest

from emoguard.runtime.phases import Thinking
from emoguard.runtime.watch import Watch
from emoguard.steering.moves import Moves
from emoguard.testing import CHECKS, FakeJoint, FakeModel, contract_probe


class BrokenMoves(Moves):
    def __call__(self, layer, h):
        raise RuntimeError("injected")


class FakeHarness:
    """Drives a `FakeModel`."""

    prompts = ((1, 5, 9), (1, 7, 30, 2))
    thinking = (40, 41)

    def __init__(self):
        self.model = FakeModel()

    def open_residuals(self):
        return self.model.door

    def attach(self, guard):
        joint = FakeJoint(self.model)
        opening, closing = self.thinking
        joint.thinking = Thinking((opening,), closing)
        return Watch(guard, joint)

    def generate(self, prompt, tokens, request=None):
        extra = {} if request is None else {"emoguard": request}
        return self.model.generate(prompt, tokens, **extra)

    def logits(self, prompt):
        return self.model.logits(prompt)

    def traces(self):
        return dict(vars(self.model))

    def break_hook(self, watch):
        watch.joint.readout = dataclasses.replace(watch.joint.readout, centre=None)

    def break_steering(self, watch):
        watch.joint.make_moves = BrokenMoves


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_fake_runtime_keeps_the_contract(check):
    harness = FakeHarness()
    check(harness, contract_probe(harness))


def test_a_whole_runtime_takes_forty_lines():
    (tree,) = ast.parse(inspect.getsource(FakeJoint)).body
    lines = inspect.getsource(FakeJoint).splitlines()
    text = {
        n
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for n in range(node.lineno, node.end_lineno + 1)
    }
    code = [line for n, line in enumerate(lines, 1) if line.strip() and n not in text]
    assert len(code) <= 40
