"""YAML as a policy may use it, and the parts of YAML that are refused."""

import time

import pytest

from emoguard import EmoGuardError, Policy
from emoguard.policy import yamlfile


def loads(text):
    return yamlfile.loads(text if isinstance(text, bytes) else text.encode(), "f.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", 1),
        ("a: -1", -1),
        ("a: 0", 0),
        ("a: +7", 7),
        ("a: 1.5", 1.5),
        ("a: .5", 0.5),
        ("a: 1e-3", 0.001),
        ("a: 1E3", 1000.0),
        ("a: 0.25", 0.25),
        ("a: true", True),
        ("a: False", False),
        ("a: null", None),
        ("a: ~", None),
        ("a:", None),
        ("a: yes", "yes"),
        ("a: off", "off"),
        ("a: 'true'", "true"),
        ('a: "1"', "1"),
        ("a: 2001-01-01", "2001-01-01"),
        ("a: 12:30:45", "12:30:45"),
        ("a: 1_000", "1_000"),
        ("a: 0x10", "0x10"),
        ("a: .nan", ".nan"),
        ("a: 1e999", float("inf")),
        ("a: 9999999999999999999999", 1e22),
        ("a: |\n  x\n  y\n", "x\ny\n"),
        ("a: [1, [b]]", [1, ["b"]]),
        ("a: {b: {c: d}}", {"b": {"c": "d"}}),
        ("\ufeffa: 1", 1),
        ("a: '010'", "010"),
    ],
)
def test_values_are_read_as_yaml_1_2_has_them(text, value):
    actual = loads(text)["a"]
    assert (actual, type(actual)) == (value, type(value))


@pytest.mark.parametrize("text", ["", "# nothing", "---", "---\n...\n", "null"])
def test_nothing_is_none(text):
    assert loads(text) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "this is no YAML: .*line 1"),
        ("a: 1\n\tb: []", "this is no YAML"),
        ("? [a, b]\n: 1", "line 1: a key is text"),
        ("? {a: b}\n: 1", "line 1: a key is text"),
        ("*a : 1", "line 1: a key is text"),
        ("1: 2", "line 1: 1: not a key"),
        ("!!python/object/apply:os.system ['true']", "line 1: tags are not taken, got tag:yaml"),
        ("a:\n  b: !!timestamp never", "a.b: line 2: tags are not taken"),
        ("a: ! 12", "a: line 1: tags are not taken, got !:"),
        ("a: *nowhere", "a: line 1: anchors and aliases"),
        ("&a [*a]", "line 1: anchors and aliases"),
        ("b: &a [*a]", "b: line 1: anchors and aliases"),
        ("a: 1\n<<: {b: 2}\na: 2", "line 3: a: given twice"),
        ("b: {a: 1, 'a': 2}", "b: line 1: a: given twice"),
        ("a: 010", "a: line 1: 010 is octal to some"),
        ("a: [08]", "a.0: line 1: 08 is octal"),
        ("a: -0_1", "a: line 1: -0_1 is octal"),
        ("a: 1\n---\nb: 2", "line 2: wanted one document"),
        (b"\xff\xfe\x00", "wanted UTF-8, got other bytes at 0"),
        (b"a: \x00", "this is no YAML"),
        ("a: " + "x" * yamlfile.LARGEST, "wanted at most 65,536 bytes"),
    ],
    ids=lambda text: repr(text[:16]),
)
def test_surprising_yaml_is_refused_with_its_place(text, sentence):
    with pytest.raises(EmoGuardError, match=f"f.yaml: {sentence}"):
        loads(text)


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "a: " + "[" * 60_000])
def test_deep_nesting_is_refused_early(text):
    with pytest.raises(EmoGuardError, match="nested more than 16 deep") as caught:
        loads(text)
    assert len(str(caught.value)) < 1000


def test_aliases_that_multiply_are_refused_without_being_written_out():
    lines = ["- &a0 [x]"]
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    with pytest.raises(EmoGuardError, match="anchors and aliases") as caught:
        loads("\n".join(lines))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("piece", ["a, ", "[],", "{a: 1},", "'x', ", "? ", "- a\n", "#\n", "1: "])
def test_the_largest_file_is_read_or_refused_in_seconds(piece):
    start = time.process_time()
    try:
        loads("[" + piece * (yamlfile.LARGEST // len(piece) - 2))
    except EmoGuardError as error:
        assert len(str(error)) < 1000  # noqa: PT017
    assert time.process_time() - start < 5


@pytest.mark.parametrize("path", ["nowhere.yaml", ".", "nul\0l.yaml"])
def test_a_path_that_cannot_be_read_is_refused(path):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        Policy.load(path)


def test_half_a_surrogate_pair_is_refused_and_not_repeated():
    for text in (b'a: "\\ud800"', b'"\\ud800": 1'):
        with pytest.raises(EmoGuardError, match="half of a surrogate pair") as caught:
            yamlfile.loads(text, "x")
        assert str(caught.value).isascii()


def test_a_device_is_not_read():
    with pytest.raises(EmoGuardError, match="wanted a regular file, got a device"):
        Policy.load("/dev/zero")
