"""Tiny random Transformers models of every architecture that can be built, and their harness."""

from __future__ import annotations

from typing import Any

import emoguard_transformers
import numpy as np
import torch
from emoguard_transformers import hooks
from transformers import AutoConfig, AutoModelForCausalLM

import emoguard
from emoguard.runtime.attach import find

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 256,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXTRA: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 256,
        "num_kv_shared_layers": 0,
        "global_head_dim": 12,
    },
    "gpt2": {
        "n_embd": 48,
        "n_layer": 6,
        "n_head": 4,
        "n_positions": 256,
        "vocab_size": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
ARCHITECTURES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "apertus",
    "phi3",
    "gpt_oss",
    "olmo2",
    "gpt2",
)


def build(architecture: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """Return a tiny model with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    extra = EXTRA.get(architecture, {})
    sizes = extra if architecture == "gpt2" else SIZES | extra
    config = AutoConfig.for_model(architecture, **(sizes | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # the default initialisation hardly moves the residual stream
                parameter.normal_(0, 0.15)
    return model


class HfHarness:
    """Drives a Transformers model for `emoguard.testing`."""

    prompts = ([5, 9, 17, 33, 8], [7, 7, 50, 120, 99, 3, 4])
    thinking = (40, 41)

    def __init__(self, model: Any, tokenizer: Any = None, monkeypatch: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.monkeypatch = monkeypatch

    def open_residuals(self):
        """See `emoguard.testing.Harness`."""
        return TextDoor(emoguard_transformers.open_residuals(self.model, self.tokenizer))

    def attach(self, guard):
        """See `emoguard.testing.Harness`."""
        options = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        return emoguard.attach(self.model, guard, **options)

    def generate(self, prompt, tokens, request=None):
        """See `emoguard.testing.Harness`."""
        ids = torch.tensor([list(prompt)], device=self.model.device)
        more = {} if request is None else {"emoguard": request}
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            **more,
        )
        return out[0, len(prompt) :].tolist()

    def logits(self, prompt):
        """See `emoguard.testing.Harness`."""
        with torch.no_grad():
            ids = torch.tensor([list(prompt)], device=self.model.device)
            return self.model(ids).logits[0, -1].float().cpu().numpy()

    def traces(self):
        """See `emoguard.testing.Harness`."""
        inner = find(self.model)[1]
        hooks = {name: len(module._forward_hooks) for name, module in inner.named_modules()}
        return hooks, sorted(vars(inner)), [p.data_ptr() for p in inner.parameters()]

    def break_hook(self, watch):
        """See `emoguard.testing.Harness`."""

        def broken(*_: Any) -> None:
            raise RuntimeError("injected")

        self.monkeypatch.setattr(hooks, "read", broken)

    def break_steering(self, watch):
        """See `emoguard.testing.Harness`."""

        def broken(*_: Any) -> None:
            raise RuntimeError("injected")

        self.monkeypatch.setattr(hooks, "steer", broken)


class Tokenizer:
    """The least a watch needs of a tokenizer: marks of reasoning, no template, text of ids."""

    chat_template = ""

    def __call__(self, text, *, add_special_tokens=True):
        """Return ids from characters, as `TextDoor` does."""
        return {"input_ids": [1] * add_special_tokens + [3 + ord(c) % 200 for c in text]}

    def get_vocab(self):
        """Return the marks alone."""
        return dict(zip(("<think>", "</think>"), HfHarness.thinking, strict=True))

    def decode(self, ids, **_: Any):
        """Return ids as words."""
        return " ".join(map(str, ids))


class TextDoor:
    """A door whose witness text is made of ids, because tiny models have no tokenizer."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.identity = inner.identity

    def tokenize(self, text, *, special=True):
        """Return ids from characters."""
        return [1] * special + [3 + ord(c) % 200 for c in text]

    def residuals(self, token_ids, layers) -> np.ndarray:
        """Pass on."""
        return self._inner.residuals(token_ids, layers)
