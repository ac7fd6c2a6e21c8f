import dataclasses
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, Policy

KEYS = [field.name for field in dataclasses.fields(Policy)]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def load(tmp_path):
    def load_text(text):
        path = tmp_path / "policy.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Policy.load(path)

    return load_text


def test_a_full_file_is_read(load):
    policy = load(
        "version: 1\nlabels: [sad, happy]\nwindow: 8\non_unsupported: skip\nkeep_reports: 3\n"
    )
    assert policy == Policy(1, ("sad", "happy"), 8, "skip", 3)


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "---\n", "null"])
def test_an_empty_file_is_the_default(load, text):
    assert load(text) == Policy()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("windw: 3", "windw: .*; did you mean window?"),
        ("zzz: 3", "zzz: .*; known keys: version, labels, window"),
        ("window: soon", "window: .*integer"),
        ("window: true", "window: .*integer"),
        ("window: '16'", "window: .*integer"),
        ("window: 1.5", "window: .*integer"),
        ("window: 0", "window must be at least 1, got 0"),
        ("keep_reports: -1", "keep_reports must be at least 1"),
        ("labels: sad", "labels: .*tuple"),
        ("labels: [1]", r"labels\.0: .*string"),
        ("labels: [sad, sad]", "labels must be distinct"),
        ("labels: null", "labels: "),
        ("on_unsupported: ask", "on_unsupported: .*'refuse' or 'skip'"),
        ("version: 2", "version: "),
        ("1: 2", "1: not a key; known keys"),
        ("null: 2", "None: "),
        ("- window", "a policy is a mapping of keys, got a list"),
        ("window", "a policy is a mapping of keys, got a str"),
    ],
)
def test_a_mistake_is_named_by_its_key(load, text, sentence):
    with pytest.raises(EmoGuardError, match=f"policy.yaml: {sentence}"):
        load(text)


@pytest.mark.parametrize(
    "text",
    [
        "window: [",
        "window: 1\n\tlabels: []",
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        "!!python/object/apply:os.system ['true']",
        "window: 2001-99-99",
        "window: !!int abc",
        "window: !!int ''",
        "window: !!bool maybe",
        "window: !!timestamp never",
        "window: !!binary '*'",
        "window: " + "9" * 5000,
        "window: *nowhere",
        "&a [*a]",
        "a: &a [*a]",
        "labels: &a [*a]",
        "[" * 5000,
        "{a: " * 5000,
        "- " * 5000,
        b"\xff\xfe\x00",
        b"window: \x00",
        "a: 1\n---\nb: 2",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_odd_yaml_is_refused_in_one_sentence(load, text):
    with pytest.raises(EmoGuardError, match="policy"):
        load(text)


def test_aliases_that_multiply_are_refused_without_being_written_out(load):
    lines = ["- &a0 [x]"]
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    with pytest.raises(EmoGuardError, match="got a list") as caught:
        load("\n".join(lines))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("path", ["nowhere.yaml", ".", "nul\0l.yaml"])
def test_a_path_that_cannot_be_read_is_refused(path):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        Policy.load(path)


@given(data=st.dictionaries(st.sampled_from(KEYS) | SCALARS, VALUES, max_size=4))
def test_any_mapping_gives_a_policy_or_names_a_key(data):
    try:
        policy = Policy.parse(data)
    except EmoGuardError as error:
        assert any(str(key)[:40] in str(error) for key in data), str(error)  # noqa: PT017
    else:
        assert set(data) <= set(KEYS)
        assert all(isinstance(label, str) for label in policy.labels)
        assert type(policy.window) is int
        assert policy.window >= 1


@given(data=VALUES)
def test_anything_else_gives_a_policy_or_one_error(data):
    try:
        assert isinstance(Policy.parse(data), Policy)
    except EmoGuardError as error:
        assert "policy" in str(error)  # noqa: PT017


@given(text=st.text(alphabet="abw:-[]{}&*!?|>'\"#%\n\t 10", max_size=40))
def test_any_text_gives_a_policy_or_one_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        assert isinstance(Policy.load(path), Policy)
    except EmoGuardError as error:
        assert "any.yaml" in str(error)  # noqa: PT017


def test_dates_as_keys_are_named():
    with pytest.raises(EmoGuardError, match="2001-01-01"):
        Policy.parse({dt.date(2001, 1, 1): 1})
