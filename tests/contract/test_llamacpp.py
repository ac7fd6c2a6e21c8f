"""The llama.cpp plug-in passes the conformance checks on tiny random GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import emoguard
from emoguard.guard import Guard
from emoguard.probe.residuals import Residuals
from emoguard.records import Request
from emoguard.runtime.watch import Watch
from emoguard.steering.moves import Moves
from emoguard.testing import CHECKS, Check, contract_probe
from tests.support import tiny_gguf

emoguard_llamacpp = pytest.importorskip("emoguard_llamacpp")

from emoguard_llamacpp import ctypes_llama  # noqa: E402

PATHS = [(name, "callback") for name in tiny_gguf.ARCHITECTURES]
PATHS += [(name, "native") for name in ("llama", "qwen3", "gemma4")]


class LlamaHarness:
    """Drives one `llama_cpp.Llama` through its public calls."""

    def __init__(self, model: Any, backend: str, monkeypatch: Any = None) -> None:
        self.model = model
        self.monkeypatch = monkeypatch
        self.backend = backend
        self.thinking = tiny_gguf.THINKING
        self.prompts: list[Sequence[int]] = [
            model.tokenize(b"the rain in the north"),
            model.tokenize(b"a cat and another cat, one hat"),
        ]

    def open_residuals(self) -> Residuals:
        return emoguard_llamacpp.open_residuals(self.model, self.backend)

    def attach(self, guard: Guard) -> Watch:
        # Told only "auto", a native watch changes to the callback with the first plan.
        backend = "auto" if self.backend == "native" else self.backend
        return emoguard.attach(self.model, guard, backend=backend)

    def generate(
        self, prompt: Sequence[int], tokens: int, request: Request | None = None
    ) -> list[int]:
        extra = {} if request is None else {"emoguard": request}
        self.model.reset()
        chosen: list[int] = []
        for token in self.model.generate(prompt, temp=0.0, **extra):
            chosen.append(token)
            if len(chosen) == tokens:
                break
        return chosen

    def logits(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        self.model.reset()
        self.model.eval(prompt)
        return ctypes_llama.last_logits(self.model, self.model.ctx)

    def traces(self) -> Any:
        llm = self.model
        attributes = {name: id(value) for name, value in vars(llm).items() if callable(value)}
        return attributes, set(vars(llm)), bytes(llm.context_params), bytes(llm._ctx.params)

    def break_hook(self, watch: Watch) -> None:
        reader = watch.joint.head.reader  # type: ignore[attr-defined]
        if reader.name == "native":
            reader.copy = None
        else:
            reader.see = None

    def break_steering(self, watch: Watch) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("injected")

        self.monkeypatch.setattr(Moves, "__call__", broken)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.mark.parametrize(("architecture", "backend"), PATHS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_plugin_keeps_the_contract(
    folder: Path, architecture: str, backend: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"{architecture}.gguf"
    if not path.exists():
        tiny_gguf.write(path, architecture)
    harness = LlamaHarness(tiny_gguf.load(path), backend, monkeypatch)
    check(harness, contract_probe(harness))
