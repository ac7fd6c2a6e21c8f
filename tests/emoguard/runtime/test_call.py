"""What calling an object does can be changed on one object, and is then as it was."""

import copy
import pickle

import pytest

from emoguard.runtime.call import called_through


class Model:
    def __init__(self, size=1):
        self.size = size

    def __call__(self, prompt, most=1):
        return prompt * most * self.size

    def __getstate__(self):
        return {"size": self.size}


def shouting(original, *args, loud=False, **kwargs):
    answer = original(*args, **kwargs)
    return answer.upper() if loud else answer


def test_calls_of_this_object_alone_go_through_the_function():
    model, other = Model(), Model()
    with called_through(model, shouting):
        assert model("a", loud=True) == "A"
        assert model("a", most=2) == "aa"
        with pytest.raises(TypeError):
            other("a", loud=True)
        held = model.__call__
    with pytest.raises(TypeError):
        model("a", loud=True)
    assert held("a", loud=True) == "A"
    assert type(model) is Model
    assert vars(model) == {"size": 1}


def test_the_object_is_still_one_of_its_class():
    model = Model(2)
    with called_through(model, shouting):
        assert isinstance(model, Model)
        assert (type(model).__name__, type(model).__module__) == ("Model", __name__)
        for same in (copy.copy(model), pickle.loads(pickle.dumps(model))):
            assert type(same) is Model
            assert same.size == 2


def test_blocks_nest():
    model = Model()
    with called_through(model, shouting):
        with called_through(model, lambda original, *args: [original(*args, loud=True)]):
            assert model("a") == ["A"]
        assert model("a", loud=True) == "A"
    assert type(model) is Model
