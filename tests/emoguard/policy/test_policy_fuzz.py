"""Whatever a policy file holds: a policy, or one EmoGuardError that names the key or the place.

EMOGUARD_FUZZ_EXAMPLES=100000 fuzzes longer.
"""

import copy
import json
import os
import random

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emoguard import EmoGuardError, Policy
from emoguard.policy import yamlfile
from tests.emoguard.policy.test_policy import FULL

LONG = settings(
    max_examples=int(os.environ.get("EMOGUARD_FUZZ_EXAMPLES", "150")),
    deadline=2000,
    suppress_health_check=[HealthCheck.too_slow],
)
VALID = yamlfile.loads(FULL.encode(), "full")
ODD = st.sampled_from(
    [
        "010", "1_000", "0x10", "12:30", "2001-01-01", "yes", ".inf", "-.inf", ".nan", "1e999",
        "!!int 3", "&a 1", "*a", "<<", "{}", "[]", "~", "''", "|\n  x", "- 1", "? a", "9" * 400,
        "\t", "\0", "'", '"', "{a: ", "[" * 40, "@", "`", "%", "\u2028", "\ud7ff", "\ufeff",
    ]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=8,
)


def places(data, path=()):
    """Yield the path of every value."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


PLACES = list(places(VALID))


def named(path, error):
    """Whether an error names a key on this path; a number alone names nothing."""
    return any(str(part)[:40] in str(error) for part in path if isinstance(part, str))


@LONG
@given(path=st.sampled_from(PLACES), value=VALUES)
def test_one_value_changed_names_its_key(path, value):
    data = copy.deepcopy(VALID)
    holder = data
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    try:
        assert isinstance(Policy.parse(data), Policy)
    except EmoGuardError as error:
        assert named(path, error), str(error)  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017


@LONG
@given(
    path=st.sampled_from([p for p in PLACES if isinstance(p[-1], str)]), name=st.text(max_size=8)
)
def test_one_key_renamed_is_named(path, name):
    data = copy.deepcopy(VALID)
    holder = data
    for part in path[:-1]:
        holder = holder[part]
    holder[name] = holder.pop(path[-1])
    try:
        assert isinstance(Policy.parse(data), Policy)
    except EmoGuardError as error:
        assert named((*path, name), error), str(error)  # noqa: PT017


@LONG
@given(data=st.dictionaries(st.sampled_from(list(VALID)) | SCALARS, VALUES, min_size=1, max_size=4))
def test_any_mapping_gives_a_policy_or_names_a_key(data):
    try:
        assert isinstance(Policy.parse(data), Policy)
    except EmoGuardError as error:
        assert any(str(key)[:40] in str(error) for key in data), str(error)  # noqa: PT017


@LONG
@given(data=VALUES)
def test_anything_else_gives_a_policy_or_names_its_source(data):
    try:
        assert isinstance(Policy.parse(data), Policy)
    except EmoGuardError as error:
        assert "policy" in str(error)  # noqa: PT017


@LONG
@given(text=st.text(max_size=80) | st.text(alphabet="abw:-[]{}&*!?|>'\"#%\n\t 10", max_size=60))
def test_any_text_is_read_or_named(text):
    read(text.encode("utf-8", "surrogatepass"))


@LONG
@given(data=st.binary(max_size=100))
def test_any_bytes_are_read_or_named(data):
    read(data)


@LONG
@given(seed=st.integers(0, 2**32), pieces=st.lists(ODD, max_size=3))
def test_a_mutated_file_is_read_or_named(seed, pieces):
    rng = random.Random(seed)
    text = FULL
    for piece in pieces:
        at = rng.randrange(len(text))
        text = text[:at] + piece + text[at + rng.choice([0, 0, 1, 5]) :]
    read(text.encode())


@LONG
@given(path=st.sampled_from(PLACES), odd=ODD)
def test_an_odd_scalar_in_a_file_is_read_or_named(path, odd):
    data = copy.deepcopy(VALID)
    holder = data
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = "ODD"
    read(yaml.safe_dump(data, sort_keys=False).replace("ODD", odd).encode())


def read(data: bytes) -> None:
    try:
        assert isinstance(Policy.parse(yamlfile.loads(data, "any.yaml"), "any.yaml"), Policy)
    except EmoGuardError as error:
        assert str(error).startswith("any.yaml: ")  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017


@pytest.mark.parametrize(
    "value", [2**63, -(2**80), 10**5000, object(), {1}, 3 + 1j, b"x"], ids=type
)
def test_values_outside_json_are_named(value):
    with pytest.raises(EmoGuardError, match=r"policy: drift.baseline: wanted text"):
        Policy.parse({"drift": {"baseline": value}})


def test_data_that_holds_itself_or_multiplies_is_refused():
    loop: dict = {}
    loop["sinks"] = [loop]
    with pytest.raises(EmoGuardError, match=r"sinks.0.sinks.0.*at most 10,000 values nested 16"):
        Policy.parse(loop)
    many: list = ["x"]
    for _ in range(12):
        many = [many] * 9
    with pytest.raises(EmoGuardError, match=r"labels.*at most 10,000 values"):
        Policy.parse({"labels": many})


def test_json_is_yaml():
    assert yamlfile.loads(json.dumps(VALID).encode(), "j") == VALID
