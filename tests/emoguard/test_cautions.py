"""What is doubtful about a probe on a model is said where it is attached."""

import dataclasses
import logging

import pytest

import emoguard
from emoguard import Guard
from emoguard.cautions import cautions
from emoguard.runtime.attach import find, shipped_files
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe
from tests.support import tiny_gguf

DOOR = FakeResiduals()
PROBE = make_probe(DOOR, ("happy", "sad"), (1, 3))
CALIBRATION = make_calibration(PROBE, DOOR.identity)


def thin(card):
    return dataclasses.replace(PROBE, card=card)


def test_a_calibrated_probe_without_cautions_has_none():
    assert cautions(Guard(PROBE, [CALIBRATION]), FAKE_IDENTITY) == []


def test_cautions_of_the_card_are_told_with_the_name_of_the_probe():
    guard = Guard(thin({"cautions": ["few texts"]}), [CALIBRATION])
    assert cautions(guard, FAKE_IDENTITY) == [f"{PROBE.name}: few texts"]


@pytest.mark.parametrize("kept", [None, "few texts", 3, {"a": "b"}, [3, None, ["x"], "a\nb"]])
def test_a_card_of_anything_else_has_no_cautions(kept):
    assert thin({"cautions": kept}).cautions == ()


def test_the_caution_of_an_uncalibrated_model_names_the_command_and_the_calibrated_files():
    other = dataclasses.replace(FAKE_IDENTITY, quantisation="Q2_K")
    (sentence,) = cautions(Guard(PROBE, [CALIBRATION]), other)
    assert "(Q2_K), but for F32" in sentence
    assert "emoguard calibrate --model" in sentence
    assert "emoguard fit" not in sentence


def test_an_adapter_is_not_told_to_calibrate_with_a_command_that_cannot_load_it():
    adapted = dataclasses.replace(FAKE_IDENTITY, adapters=("mine",))
    (sentence,) = cautions(Guard(PROBE, [CALIBRATION]), adapted)
    assert "F32 with mine" in sentence
    assert "emoguard calibrate" not in sentence
    assert "merge" in sentence


def test_attach_logs_each_once(tmp_path, caplog):
    pytest.importorskip("llama_cpp")
    llm = tiny_gguf.load(tiny_gguf.write(tmp_path / "tiny.gguf", "llama"))
    plugin, inner = find(llm)
    probe = make_probe(plugin.open_residuals(inner), ("happy", "sad"), (1, 2))
    probe = dataclasses.replace(probe, card={"cautions": ["few texts"]})
    with caplog.at_level(logging.WARNING, "emoguard"), emoguard.attach(llm, Guard(probe)):
        few, uncalibrated = [record.message for record in caplog.records]
    assert few == f"{probe.name}: few texts"
    assert "not calibrated" in uncalibrated
    llm.close()


@pytest.mark.parametrize("name", shipped_files())
def test_shipped_probes_are_not_doubtful(name):
    assert Guard.load(str(shipped_files()[name])).probe.cautions == ()
