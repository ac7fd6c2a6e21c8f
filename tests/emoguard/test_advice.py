"""Every command, option and name that the product or its documents advise is there."""

import ast
import re
import shlex
from importlib.metadata import packages_distributions
from pathlib import Path

import click
import pytest

import emoguard
from emoguard import advice
from emoguard.cli.verbs import NAMES, verbs
from emoguard.extras import EXTRAS, extra_of, install_command

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for kind in ("emoguard", "plugins", "monitors", "exporters")
    for path in (ROOT / kind).rglob("*.py")
)
DOCUMENTS = [
    ROOT / "README.md",
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "exporters").rglob("*.yml")),
    *sorted((ROOT / "exporters").rglob("*.json")),
]
COMMAND = re.compile(r"(?<![\w./'-])(?<!from )emoguard ([a-z][a-z-]*)([^`\n;|>#)]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHERS = {
    "llama-cli": {"--control-vector"},
    "hf download": {"--local-dir"},
    "pip install": {"--no-deps"},
    "vllm serve": {
        "--additional-config",
        "--api-server-count",
        "--compilation-config",
        "--middleware",
    },
}
"""Options of other programs, by what stands before them."""


def strings(path):
    """Return the texts in a source file, a mark in the place of what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
             for part in ast.walk(node)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(_text(value) for value in node.values)
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            yield _text(node)


def _text(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def texts(path):
    return list(strings(path)) if path.suffix == ".py" else [path.read_text(encoding="utf-8")]


def command(name):
    actual = verbs.get_command(click.Context(verbs), name)
    assert actual is not None
    return actual


def options(name):
    """Return the options of a verb and of those below it."""
    actual = command(name)
    below = actual.commands.values() if isinstance(actual, click.Group) else ()
    params = [p for each in (actual, *below) for p in each.get_params(click.Context(each))]
    return {flag for p in params for flag in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}


def check_options(shown, verb):
    for other, theirs in OTHERS.items():
        if other in shown:
            shown = re.sub("|".join(theirs), "", shown)
    unknown = set(OPTION.findall(shown)) - options(verb)
    assert not unknown, f"emoguard {verb} has no {', '.join(unknown)}: {shown!r}"


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_that_is_named_is_a_verb_with_these_options(path):
    for text in texts(path):
        for actual in re.finditer(
            r"(?<![\w./'-])(?<!from )emoguard ([a-z][a-z-]*)([^`\n;|>#)]*)", text
        ):
            verb, rest = actual.groups()
            assert verb in NAMES, f"no verb: {actual.group()!r}"
            check_options(rest.partition("emoguard ")[0], verb)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_a_verb_speaks_of_is_its_own(name):
    for text in strings(ROOT / "emoguard" / "cli" / f"{name.replace('-', '_')}.py"):
        check_options(text, name)


def test_an_option_that_any_part_speaks_of_is_one_of_a_verb():
    known = {option for name in NAMES for option in options(name)}
    known |= {option for theirs in OTHERS.values() for option in theirs}
    for path in SOURCES:
        for text in strings(path):
            assert set(OPTION.findall(text)) <= known, (path, text)


def documented():
    """Return the commands in code of the documents; what may be left out of them is."""
    for path in DOCUMENTS:
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
            lines = [line for b in blocks for line in b.replace("\\\n", "").splitlines()]
            lines += re.findall(r"`(emoguard [^`]* [^`]*)`", text)
            for line in lines:
                if line.startswith("emoguard ") and "\\|" not in line:  # several verbs in one
                    yield re.sub(r"\[[^\]]*\]|…", "", line.partition(" >")[0])


@pytest.mark.parametrize(
    "line",
    [
        advice.fit_command(),
        advice.fit_command("my models/a b.gguf"),
        advice.calibrate_command(),
        advice.calibrate_command("m.gguf", "smollm2-135m-instruct", "Q8_0"),
        advice.calibrate_command("m.gguf", "p.safetensors", "type 99", "transformers"),
        advice.baseline_command(),
        *dict.fromkeys(documented()),
    ],
)
def test_a_whole_command_has_the_arguments_of_its_verb(line):
    _, verb, *arguments = shlex.split(line, comments=True)
    actual = command(verb)
    if isinstance(actual, click.Group):
        actual, arguments = actual.commands[arguments[0]], arguments[1:]
    if arguments:  # else it is only named
        actual.make_context(verb, arguments)


def test_a_calibration_is_written_beside_its_probe_under_another_name():
    shown = shlex.split(advice.calibrate_command("m.gguf", "there/mine.safetensors", "Q8_0"))
    assert shown[shown.index("--out") + 1] == "there/mine-Q8_0.safetensors"


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_name_of_the_interface_that_is_advised_is_there(path):
    for text in texts(path):
        for owner, name in re.findall(r"\b(Guard|Policy|Plan|Probe|Request)\.([a-z]\w*)\(", text):
            assert hasattr(getattr(emoguard, owner), name), f"{owner}.{name}"
        for name in re.findall(r"\bemoguard\.(\w+)\(", text):
            assert hasattr(emoguard, name), f"emoguard.{name}"


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_installed_from_an_index_by_the_name_of_this_project(path):
    for text in texts(path):
        assert re.findall(r"pip install[^\n]*\bemoguard\b[^\n]*", text) == []


LIBRARIES = {
    "click": "cli",
    "rich": "cli",
    "llama_cpp": "llamacpp",
    "torch": "transformers",
    "transformers": "transformers",
    "gguf": "fit",
    "matplotlib": "fit",
    "vaderSentiment": "fit",
    "prometheus_client": "prometheus",
    **EXTRAS,
}
"""What is imported, and the extra that brings it."""


@pytest.mark.parametrize(("library", "extra"), LIBRARIES.items())
def test_every_library_that_is_imported_has_its_extra(library, extra):
    assert extra_of(library) == extra


def test_a_library_that_no_extra_brings_has_none():
    assert extra_of("antigravity") is None
    assert install_command("antigravity") == "pip install 'antigravity'"


@pytest.fixture(scope="module")
def providers():
    """The distributions behind each top-level package that is installed here."""
    return packages_distributions()


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_command_for_a_missing_library_installs_it(library, providers):
    if library not in providers:
        pytest.skip(f"{library} is not installed, so nobody knows what brings it")
    wanted = re.findall(r"'([A-Za-z0-9_.-]+)", install_command(library))
    brought = {_plain(name) for name in wanted}
    # Those of a server come with the extra of a distribution, which the command names as such.
    is_direct = brought & {_plain(name) for name in providers[library]}
    assert is_direct or re.search(
        r"python\[server\]|transformers\[serving\]", install_command(library)
    )


def _plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()
