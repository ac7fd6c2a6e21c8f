"""A probe is named as one of those that are shipped, or by path."""

from pathlib import Path

import pytest

from emoguard import EmoGuardError, Guard
from emoguard.probe import artifact
from emoguard.probe.shipped import load_probe, shipped_files
from emoguard.testing import FakeResiduals, make_probe

SHIPPED = list(shipped_files())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    artifact.save(path, make_probe(FakeResiduals()))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_probe_is_loaded_by_its_name(name):
    probe, calibrations = load_probe(name)
    guard = Guard.load(name)
    assert (guard.probe.name, len(guard.calibrations)) == (probe.name, len(calibrations))
    assert calibrations


def test_a_file_is_loaded_by_its_path(file):
    names = {load_probe(file)[0].name, load_probe(str(file))[0].name, Guard.load(file).probe.name}
    assert len(names) == 1


def test_a_path_is_a_file_even_with_the_name_of_a_shipped_probe(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    named = Path(SHIPPED[0])
    with pytest.raises(EmoGuardError, match="there is no probe"):
        load_probe(named)
    file.rename(named)
    assert load_probe(named)[0].labels == make_probe(FakeResiduals()).labels


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("smollm2", f"there is no probe smollm2: give a file, or one shipped here .*{SHIPPED[0]}"),
        (Path("nowhere"), "there is no probe nowhere"),
        ("a\0b", "there is no probe"),
        (make_probe(FakeResiduals()), r"got Probe: .* goes into Guard\(probe, calibrations\)"),
        (None, "got null"),
        (b"smollm2", "got bytes"),
    ],
    ids=str,
)
def test_an_unknown_probe_is_refused_with_the_known_ones(name, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        Guard.load(name)
