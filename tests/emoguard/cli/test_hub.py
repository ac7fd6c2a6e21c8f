"""A model named as on the hub comes from the hub's cache, or one sentence says why it does not."""

import sys

import pytest

from emoguard.cli import hub, main
from tests.support import tiny_folder


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A hub that cannot be reached, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_in_the_cache_is_found(offline):
    repo = offline / "models--someone--tiny"
    snapshot = repo / "snapshots" / "0123456789012345678901234567890123456789"
    snapshot.mkdir(parents=True)
    tiny_folder.write(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name)
    assert hub.local(None, None, "someone/tiny") == str(snapshot)


@pytest.mark.parametrize(
    "command", [["fit", "--estimate"], ["study", "core", "--out", "here"], ["doctor"]]
)
def test_a_hub_that_cannot_be_reached_is_one_sentence(offline, capsys, command):
    assert main([*command, "--model", "someone/tiny"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "someone/tiny is no path here: asking the Hugging Face hub for it"
    assert "there is no model at someone/tiny, and the Hugging Face hub did not give" in lines[1]
    assert "give the folder" in lines[1]


def test_without_the_hub_s_library_a_name_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["fit", "--model", "modles/qwen", "--estimate"]) == 1
    printed = capsys.readouterr().err
    assert "there is no model at modles/qwen" in printed
    assert "takes huggingface_hub: install it, or give a path" in printed


@pytest.mark.parametrize("path", ["none.gguf", "gone/none.gguf", "/tmp/none", "a/b/c", "none"])
def test_what_is_a_path_is_never_asked_for(path):
    assert hub.local(None, None, path) == path


def test_a_path_in_a_folder_that_is_there_is_never_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert hub.local(None, None, "models/llama") == "models/llama"
