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
    policy = load("version: 1\nlabels: [sad, happy]\non_unsupported: skip\nkeep_reports: 3\n")
    assert policy == Policy(labels=("sad", "happy"), on_unsupported="skip", keep_reports=3)


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "---\n", "null"])
def test_an_empty_file_is_the_default(load, text):
    assert load(text) == Policy()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sample_rato: 3", "sample_rato: unknown; did you mean sample_ratio?"),
        ("zzz: 3", "zzz: unknown; known keys: version, labels, alarms"),
        ("window: 3", "window: unknown; did you mean alarms.window_tokens?"),
        ("max_dose_ratio: 1", "max_dose_ratio: unknown; did you mean steering.max_dose_ratio?"),
        ("steering: {max_dose: 1}", "steering.max_dose: unknown; did you mean max_dose_ratio?"),
        ("steering: {plan: {ad: {}}}", "steering.plan.ad: unknown; did you mean add?"),
        ("keep_reports: soon", 'keep_reports: wanted a whole number, got "soon"'),
        ("keep_reports: true", "keep_reports: wanted a whole number, got true"),
        ("keep_reports: '16'", 'keep_reports: wanted a whole number, got "16"'),
        ("keep_reports: 1.5", "keep_reports: wanted a whole number, got 1.5"),
        ("keep_reports: -1", "keep_reports: wanted a number greater than or equal to 1, got -1"),
        ("alarms: {window_tokens: 0}", "alarms.window_tokens: wanted a number greater .* got 0"),
        ("alarms: 3", "alarms: wanted a mapping, got 3"),
        ("alarms: null", "alarms: wanted a mapping, got null"),
        ("sample_ratio: 1.1", "sample_ratio: wanted a number less than or equal to 1, got 1.1"),
        ("sample_ratio: .nan", 'sample_ratio: wanted a number, got ".nan"'),
        ("sample_ratio: 1e999", "sample_ratio: wanted .* a finite number.*, got inf"),
        ("requests: {plan: yes}", 'requests.plan: wanted a boolean, got "yes"'),
        ("labels: sad", 'labels: wanted a list, got "sad"'),
        ("labels: [1]", r"labels\.0: wanted text, got 1"),
        ("labels: [sad, sad]", "labels must be distinct"),
        ("labels: null", "labels: wanted a list, got null"),
        ("on_unsupported: ask", "on_unsupported: wanted 'refuse' or 'skip', got \"ask\""),
        ("steering: {plan: {cap: {sad: 2}}}", "plan.cap of sad must be a neutral quantile"),
        ("steering: {plan: {add: {sad: 1}}}", "the plan's doses come to 1, .* max_dose_ratio"),
        ("sinks: [rate]", r'sinks\.0: wanted a mapping, got "rate"'),
        ("sinks: [{rate: 1}]", r"sinks\.0\.rate: wanted a mapping, got 1"),
        (
            "sinks: [{rate: {}, drift: {}}]",
            r"sinks\.0 must be one name with its options, got rate, d",
        ),
        ("version: 2", "version: this EmoGuard reads version 1, got 2"),
        ("version: true", "version: this EmoGuard reads version 1, got true"),
        ("1: 2", "line 1: 1: not a key"),
        ("null: 2", "line 1: null: not a key"),
        ("labels: []\nlabels: []", "line 2: labels: given twice"),
        ("keep_reports: 010", "keep_reports: line 1: 010 is octal to some"),
        ("alarms:\n  window_tokens: !!int 3", "alarms.window_tokens: line 2: tags are not taken"),
        ("- labels", "wanted a mapping of keys to values, got a list"),
        ("labels", 'wanted a mapping of keys to values, got "labels"'),
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
    with pytest.raises(EmoGuardError, match="anchors and aliases") as caught:
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
        assert type(policy.alarms.window_tokens) is int
        assert policy.alarms.window_tokens >= 1


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
