"""A plug-in that is installed for one test, and the shelf of shipped probes."""

from pathlib import Path

from emoguard.probe import artifact, shipped
from emoguard.testing import FakeResiduals, make_calibration, make_probe

FAKE_PLUGIN = """
from emoguard.testing import FakeJoint, FakeModel, FakeResiduals
def open_residuals(model, backend="auto"): return FakeResiduals()
def joint(model, backend="auto"):
    fake = FakeJoint(FakeModel())
    fake.asked = backend
    return fake
"""


def foreign(module: str, **members: object) -> object:
    """Return an object whose class says it lives in `module`."""
    return type("Model", (), {"__module__": module, **members})()


def shelf(monkeypatch, folder: Path) -> Path:
    """Let the shipped probes be those in `folder`/probes."""
    probes = folder / "probes"
    probes.mkdir()
    monkeypatch.setattr(shipped, "files", lambda package: folder)
    return probes


def save_probe(path: Path, door: FakeResiduals, layers: tuple[int, ...] = (1, 2)) -> None:
    """Write a calibrated random probe for the model behind `door`."""
    probe = make_probe(door, layers=layers)
    artifact.save(path, probe, [make_calibration(probe, door.identity)])


def fake_model(folder: Path, monkeypatch) -> object:
    """Return a model object whose installed plug-in is a fake; the probe `fits` is shipped."""
    info = folder / "fakery-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakery\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[emoguard.plugins]\nfakery = fakery_plugin\n")
    (folder / "fakery_plugin.py").write_text(FAKE_PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    save_probe(shelf(monkeypatch, folder) / "fits.safetensors", FakeResiduals())
    return foreign("fakery.model")
