"""A folder opened by path says at once if it will be slow here."""

import pytest

pytest.importorskip("transformers")

import torch
from emoguard_transformers.speaker import TransformersSpeaker

from tests.support import tiny_folder


@pytest.fixture(params=["float32", "bfloat16"])
def folder(request, tmp_path):
    path = tiny_folder.write(tmp_path / "tiny")
    speaker = TransformersSpeaker.load(path)
    speaker.model.to(getattr(torch, request.param)).save_pretrained(path)
    return path, request.param


@pytest.mark.parametrize(("has", "slow"), [("AVX2", True), ("AVX512", False)])
def test_a_folder_in_16_bits_is_warned_of_where_they_are_computed_in_software(
    folder, has, slow, monkeypatch, caplog
):
    path, dtype = folder
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: has)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    TransformersSpeaker.load(path)
    warned = "tiny is in bfloat16, for which this processor has no instructions" in caplog.text
    assert warned == (slow and dtype == "bfloat16")
