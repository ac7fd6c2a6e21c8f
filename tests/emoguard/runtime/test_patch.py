from types import SimpleNamespace

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


def test_what_somebody_put_over_ours_stays():
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
