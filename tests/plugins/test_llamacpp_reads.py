"""The two read paths of llama.cpp give the same numbers, and the allow-list tells the truth."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import emoguard_llamacpp
import llama_cpp
import numpy as np
import pytest
from emoguard_llamacpp import ctypes_llama, ctypes_symbols, doctor, support

from emoguard.errors import EmoGuardError
from tests.support import tiny_gguf

NATIVE = support.allow_list().get(llama_cpp.__version__, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def test_the_installed_version_is_on_the_allow_list() -> None:
    assert NATIVE
    assert set(NATIVE) <= set(tiny_gguf.ARCHITECTURES), "every entry is checked on a tiny file"


@pytest.mark.parametrize("architecture", tiny_gguf.ARCHITECTURES)
def test_the_allow_list_agrees_with_a_child_process(folder: Path, architecture: str) -> None:
    path = tiny_gguf.write(folder / f"{architecture}.gguf", architecture)
    findings = doctor.examine(str(path))
    sizes = {"architecture": architecture, "layers": 5, "hidden": 64, "quantisation": "F32"}
    assert findings.items() >= {**sizes, "callback": "works", "error": None}.items()
    if architecture in NATIVE:
        assert findings["native"] == "allowed"
    else:
        assert str(findings["native"]).startswith("unsupported: ")


@pytest.mark.parametrize("architecture", NATIVE)
@pytest.mark.parametrize("tokens", [1, 40, 600])
def test_both_paths_read_the_same_numbers(folder: Path, architecture: str, tokens: int) -> None:
    path = tiny_gguf.write(folder / f"{architecture}.gguf", architecture)
    llm = tiny_gguf.load(path)
    text = np.random.default_rng(0).integers(5, tiny_gguf.VOCABULARY, tokens).tolist()
    native, callback = (
        emoguard_llamacpp.open_residuals(llm, backend).residuals(text, range(4))
        for backend in ("native", "callback")
    )
    assert native.shape == (4, tokens, 64)
    assert np.array_equal(native, callback)


def test_the_door_leaves_the_model_alone(folder: Path) -> None:
    llm = tiny_gguf.load(tiny_gguf.write(folder / "alone.gguf", "llama"))
    llm.eval([1, 90, 91])
    before = ctypes_llama.last_logits(llm, llm.ctx)
    for backend in ("native", "callback"):
        emoguard_llamacpp.open_residuals(llm, backend).residuals([1, 95, 96, 97], [0, 3])
    assert np.array_equal(ctypes_llama.last_logits(llm, llm.ctx), before)
    assert llm.n_tokens == 3


def test_the_door_refuses_layers_it_cannot_read(folder: Path) -> None:
    door = emoguard_llamacpp.open_residuals(
        tiny_gguf.load(tiny_gguf.write(folder / "door.gguf", "llama"))
    )
    for tokens, layers, words in (
        ([], [1], "empty text"),
        ([1, 90], [4], r"layers must lie in \[0, 3\], got \[4\]"),
        ([1, 90], [-1], r"got \[-1\]"),
        ([1, 10**6], [1], "could not run 2 tokens"),
    ):
        with pytest.raises(EmoGuardError, match=words):
            door.residuals(tokens, layers)


def test_special_adds_bos_and_the_text_may_hold_special_tokens(folder: Path) -> None:
    door = emoguard_llamacpp.open_residuals(
        tiny_gguf.load(tiny_gguf.write(folder / "words.gguf", "llama"))
    )
    assert door.tokenize("a<think>") == [1, *door.tokenize("a<think>", special=False)]
    assert door.tokenize("<think>", special=False) == [3]


def test_the_tensor_layout_matches_the_library() -> None:
    ctypes_llama.check_layout()


def test_another_tensor_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(ctypes.Structure):
        _fields_ = (("more", ctypes.c_int64), *ctypes_llama.Tensor._fields_)

    monkeypatch.setattr(ctypes_llama, "Tensor", Longer)
    with pytest.raises(EmoGuardError, match="lays tensors out in an unknown way"):
        ctypes_llama.check_layout.__wrapped__()


def test_a_symbol_that_is_gone_is_named() -> None:
    with pytest.raises(EmoGuardError, match="does not export ggml_no_such_thing"):
        ctypes_symbols.bind(None, (), "ggml_no_such_thing")


def test_rows_of_another_shape_are_refused() -> None:
    tensor = ctypes_llama.Tensor(type=1, ne=(8, 1, 1, 1), nb=(4, 32, 32, 32), name=b"l_out-3")
    with pytest.raises(EmoGuardError, match="l_out-3 must be float32 of shape"):
        ctypes_llama.tensor_rows(ctypes.addressof(tensor), 8)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all", b"GGUF\x03" + b"\xff" * 90])
def test_examining_no_model_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    findings: dict[str, Any] = doctor.examine(str(path))
    assert findings["error"]
    assert findings["native"] is None
    missing = doctor.examine(str(tmp_path / "missing.gguf"))
    assert "there is no file" in str(missing["error"])


def test_the_runtime_is_described() -> None:
    assert doctor.runtime() == {
        "version": llama_cpp.__version__,
        "native": list(NATIVE),
        "callback": "works",
    }
