"""Small hostile files: every parser takes them or raises EmoGuardError."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import limits
from tests.fuzz.mutations import ODD, mutants
from tests.fuzz.parsers import PARSERS, READERS

pytestmark = pytest.mark.slow

STATES = ("rate state", "drift state", "notice state", "checkpoint")
"""Parsers of what one process keeps, which never stop a start."""

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").iterdir() if path.is_file())

every_parser = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
every_reader = pytest.mark.parametrize("parser", READERS, ids=lambda parser: parser.name)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("K", "0f" * 32)
    return tmp_path / "file"


def check(parser, path, data):
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return limits.check(lambda: parser.read(path))


@every_parser
def test_its_sound_file_is_taken(parser, path):
    assert not check(parser, path, parser.seed())


@every_parser
@given(data=st.data())
def test_mutants_are_taken_or_refused(parser, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutant"
    check(parser, path, data.draw(mutants(parser.seed(), parser.kind)))


@every_parser
def test_inputs_that_once_broke_parsers_are_taken_or_refused(parser, path):
    for known in [*(file.read_bytes() for file in CORPUS), *ODD]:
        check(parser, path, known)


@every_reader
@pytest.mark.parametrize(
    "place", ["folder", "pipe", "/dev/zero", "/dev/null", "loop", "/proc/self/mem"]
)
def test_other_things_in_the_place_of_a_file_are_refused_at_once(parser, path, place):
    if place == "folder":
        path.mkdir()
    elif place == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if place == "loop" else place)
    refusal = limits.check(lambda: parser.read(path))
    # What passes for a file and cannot be read: that of a state is reported and left where it is.
    assert refusal or (place == "/proc/self/mem" and parser.name in STATES)
    assert place != "/dev/null" or Path(place).is_char_device()


@every_reader
def test_a_file_that_is_not_there_is_refused_unless_it_is_optional(parser, path):
    assert bool(limits.check(lambda: parser.read(path))) != parser.optional
