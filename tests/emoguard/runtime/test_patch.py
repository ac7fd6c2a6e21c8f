import copy
import pickle
from types import SimpleNamespace

import pytest

from emoguard.runtime.patch import attribute


class Owner:
    name = "the class's"


def test_an_attribute_of_the_class_shows_again():
    owner = Owner()
    with attribute(owner, "name", "ours"):
        assert owner.name == "ours"
    assert vars(owner) == {}
    assert owner.name == "the class's"


def test_an_attribute_of_the_instance_comes_back():
    owner = SimpleNamespace(name="theirs")
    with attribute(owner, "name", "ours"):
        pass
    assert owner.name == "theirs"


def test_an_attribute_put_over_ours_stays():
    owner = Owner()
    with attribute(owner, "name", "ours"):
        owner.name = "later"
    assert owner.name == "later"


def test_blocks_may_end_in_any_order():
    owner = SimpleNamespace(name="theirs")
    first, second = attribute(owner, "name", "first"), attribute(owner, "name", "second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert owner.name == "second"


WAYS = (copy.copy, copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner)))


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_the_original_attribute(way):
    owner = Owner()
    owner.other = [1]
    for before in ({"other": [1]}, {"other": [1], "name": "theirs"}):
        vars(owner).update(before)
        with attribute(owner, "name", lambda: 1), attribute(owner, "name", lambda: 2):
            assert vars(way(owner)) == before
        assert vars(owner) == before


def test_an_attribute_put_over_ours_is_copied():
    owner = Owner()
    with attribute(owner, "name", lambda: 1):
        owner.name = "later"
        assert vars(copy.deepcopy(owner)) == {"name": "later"}


class Stateful(Owner):
    def __getstate__(self):
        return {"made": "by itself"}


def test_a_state_that_an_object_makes_itself_is_kept():
    owner = Stateful()
    with attribute(owner, "name", lambda: 1):
        assert vars(copy.copy(owner)) == {"made": "by itself"}
    own = Owner()
    own.__getstate__ = lambda: {"made": "by hand"}
    before = dict(vars(own))
    with attribute(own, "name", lambda: 1):
        assert own.__getstate__() == {"made": "by hand"}
    assert vars(own) == before
