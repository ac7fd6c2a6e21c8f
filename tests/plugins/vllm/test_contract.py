"""The plug-in passes the conformance checks of every runtime, on SmolLM2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import emoguard_vllm
import numpy as np
import pytest
from emoguard_torch import packed
from emoguard_vllm import buffers
from numpy.typing import NDArray

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe.residuals import Residuals
from emoguard.records import Request
from emoguard.runtime.watch import Watch
from emoguard.testing import CHECKS, Check, contract_probe
from tests.plugins.vllm import engines

pytestmark = pytest.mark.engines("eager", "compiled")


class VllmHarness:
    """Drives one `vllm.LLM` through its public calls."""

    def __init__(self, model: Any, monkeypatch: Any) -> None:
        self.model = model
        self.monkeypatch = monkeypatch
        tokenizer = model.get_tokenizer()
        self.thinking = (
            tokenizer.convert_tokens_to_ids("<repo_name>"),
            tokenizer.convert_tokens_to_ids("<file_sep>"),
        )
        self.prompts: list[Sequence[int]] = [
            tokenizer.encode("the rain in the north"),
            tokenizer.encode("a cat and another cat, one hat"),
        ]

    def open_residuals(self) -> Residuals:
        return emoguard_vllm.open_residuals(self.model)

    def attach(self, guard: Guard) -> Watch:
        return emoguard.attach(self.model, guard)

    def generate(
        self, prompt: Sequence[int], tokens: int, request: Request | None = None
    ) -> list[int]:
        return list(self._ask(prompt, request, max_tokens=tokens, ignore_eos=True).token_ids)

    def logits(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        choice = self._ask(prompt, None, max_tokens=1, logprobs=-1)
        found = {token: each.logprob for token, each in choice.logprobs[0].items()}
        return np.array([found[token] for token in sorted(found)], np.float32)

    def _ask(self, prompt: Sequence[int], request: Request | None, **sampling: Any) -> Any:
        from vllm import SamplingParams

        extra = {} if request is None else {"emoguard": request}
        (output,) = self.model.generate(
            {"prompt_token_ids": list(prompt)},
            SamplingParams(temperature=0.0, **sampling),
            use_tqdm=False,
            **extra,
        )
        return output.outputs[0]

    def traces(self) -> Any:
        engine = self.model.llm_engine
        owners = (self.model, engine, engine.output_processor, engine.input_processor)
        return [set(vars(owner)) for owner in owners]

    def break_hook(self, watch: Watch) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("injected")

        self.monkeypatch.setattr(buffers, "project", broken)

    def break_steering(self, watch: Watch) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("injected")

        self.monkeypatch.setattr(packed, "_on_cpu", broken)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_plugin_keeps_the_contract(
    llm: Any, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = VllmHarness(llm, monkeypatch)
    if check.__name__ == "check_reasoning":
        from emoguard_vllm import vllm_joint

        from emoguard.runtime.phases import Thinking

        opening, closing = harness.thinking
        marks = Thinking((opening,), closing)
        monkeypatch.setattr(vllm_joint, "find_thinking", lambda _: marks)
    half = harness.open_residuals().identity.layers // 2
    check(harness, contract_probe(harness, (half, half + 1)))


def test_hooks_that_the_compiled_code_leaves_out_are_refused(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a stale compile cache: the operator is no node of what runs."""
    harness = VllmHarness(llm, monkeypatch)
    half = harness.open_residuals().identity.layers // 2
    guard = Guard(contract_probe(harness, (half, half + 1)))
    before = harness.traces()
    with monkeypatch.context() as patch:
        patch.setattr(buffers.Buffers, "see", lambda *_: None)
        with pytest.raises(EmoGuardError, match="compiled without them"):
            harness.attach(guard)
    assert harness.traces() == before
    with harness.attach(guard) as watch, monkeypatch.context() as patch:
        patch.setattr(buffers.Buffers, "see", lambda *_: None)
        harness.generate(harness.prompts[0], 3)
        assert watch.reports[-1].status == "incomplete"
        assert watch.reports[-1].tokens_scored == 0


def test_the_engine_is_as_it_was_asked_for(llm: Any) -> None:
    config = llm.llm_engine.vllm_config
    assert config.model_config.enforce_eager == (engines.NAME == "eager")
    assert bool(config.compilation_config.mode) == (engines.NAME == "compiled")
    assert config.cache_config.enable_prefix_caching
