"""What a study's records depend on changes its digests, and nothing else does."""

import dataclasses

import pytest

from emoguard import Guard
from emoguard.study.binding import bound_to
from emoguard.study.personas import PERSONAS
from emoguard.study.protocol import Protocol
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

PROTOCOL = Protocol(labels=("happy", "desperate"))
PROBE = make_probe(FakeResiduals(), ("happy", "desperate"), (1, 3))
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
GUARD = Guard(PROBE, [CALIBRATION])


def bound(protocol=PROTOCOL, **folders):
    return bound_to(protocol, GUARD, FAKE_IDENTITY, "fake", **folders)


def test_records_are_bound_to_what_the_probe_adds_and_to_no_verdict():
    def bound(probe, calibration=CALIBRATION):
        return bound_to(PROTOCOL, Guard(probe, [calibration]), FAKE_IDENTITY, "fake")

    judged = dataclasses.replace(PROBE, card={"note": "judged since"}, name="another@1")
    turned = dataclasses.replace(PROBE, steer=-PROBE.steer)
    longer = dataclasses.replace(CALIBRATION, norms=2 * CALIBRATION.norms)
    assert bound(judged) == bound(PROBE)
    assert bound(turned) != bound(PROBE)
    assert bound(PROBE, longer) != bound(PROBE)


def write(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_records_are_bound_to_the_content_of_an_encoder_and_not_to_its_place(tmp_path):
    one = write(tmp_path / "one", config_json="{}", model_safetensors="a", README_md="a")
    same = write(tmp_path / "same", config_json="{}", model_safetensors="a", README_md="b")
    first = bound(embeddings=one)
    assert bound(embeddings=same) == first != bound()
    for changed in ({"config_json": "[]"}, {"model_safetensors": "b"}, {"vocab_txt": "b"}):
        assert bound(embeddings=write(same, **changed)) != first
        write(same, config_json="{}", model_safetensors="a")
        (same / "vocab.txt").unlink(missing_ok=True)


def test_records_are_bound_to_the_names_of_the_labels_that_classifiers_learn(tmp_path):
    protocol = Protocol(judges={"people": "people/dev.tsv"})
    write(tmp_path / "people", dev_tsv="a\t0", labels_txt="joy")
    first = bound(protocol, data=tmp_path)
    assert bound(protocol, data=tmp_path) == first
    write(tmp_path / "people", labels_txt="anger")
    assert bound(protocol, data=tmp_path) != first


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("items.prompts", list),
        ("items.tasks", list),
        ("items.premises", lambda wordings: []),
        ("questions.calibrating", list),
        ("PERSONAS", {"happy": "You are a stone."}),
        ("NEUTRAL", "You are a stone."),
        ("neutral_prompts", list),
        ("families", list),
    ],
)
def test_records_are_bound_to_the_texts_that_come_with_emoguard(monkeypatch, place, change):
    first = bound()
    monkeypatch.setattr(f"emoguard.study.binding.{place}", change)
    assert bound() != first


def test_a_persona_that_a_study_does_not_use_does_not_bind_it(monkeypatch):
    first = bound()
    more = {**PERSONAS, "bored": "You are a stone."}
    monkeypatch.setattr("emoguard.study.binding.PERSONAS", more)
    assert bound() == first
