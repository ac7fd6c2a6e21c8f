"""Finds the decoder blocks of each architecture."""

from __future__ import annotations

from typing import Any

import torch

from emoguard.errors import EmoGuardError

TEXT = "model.layers"
"""The path below a causal language model in nearly every architecture."""

MULTIMODAL = "model.language_model.layers"
"""The path below a model that also sees or hears."""

PATHS = {
    "apertus": TEXT,
    "cohere": TEXT,
    "cohere2": TEXT,
    "gemma": TEXT,
    "gemma2": TEXT,
    "gemma3": MULTIMODAL,
    "gemma3_text": TEXT,
    "gemma4": MULTIMODAL,
    "gemma4_text": TEXT,
    "glm": TEXT,
    "glm4": TEXT,
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "gpt_oss": TEXT,
    "granite": TEXT,
    "llama": TEXT,
    "ministral": TEXT,
    "mistral": TEXT,
    "mistral3": MULTIMODAL,
    "mixtral": TEXT,
    "olmo": TEXT,
    "olmo2": TEXT,
    "olmo3": TEXT,
    "phi": TEXT,
    "phi3": TEXT,
    "qwen2": TEXT,
    "qwen2_moe": TEXT,
    "qwen3": TEXT,
    "qwen3_moe": TEXT,
    "smollm3": TEXT,
    "stablelm": TEXT,
    "starcoder2": TEXT,
}
"""`config.model_type` to the blocks' list. The witness checks at attach that an entry is right."""


def find_blocks(model: Any) -> torch.nn.ModuleList:
    """Return the decoder blocks of a causal language model.

    Raises:
        EmoGuardError: not a Transformers model, an architecture that is not in the table, or a
            model of that architecture without a language-model head.

    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind is None or not isinstance(model, torch.nn.Module):
        raise EmoGuardError(
            f"wanted a Transformers model, got {type(model).__qualname__}: "
            "pass the object whose generate you call"
        )
    if kind not in PATHS:
        raise EmoGuardError(
            f"cannot read {kind} models through Transformers; known: {', '.join(sorted(PATHS))}. "
            "If its blocks pass one residual stream, add it to emoguard_transformers/blocks.py"
        )
    blocks: Any = model
    for part in PATHS[kind].split("."):
        blocks = getattr(blocks, part, None)
    if not isinstance(blocks, torch.nn.ModuleList):
        raise EmoGuardError(
            f"a {kind} model keeps its blocks in {PATHS[kind]}, this {type(model).__qualname__} "
            "does not: load it with AutoModelForCausalLM"
        )
    return blocks


def find_body(model: Any) -> Any:
    """Return the module around the decoder blocks: the language model without its head.

    Raises:
        EmoGuardError: as `find_blocks`.

    """
    find_blocks(model)
    module = model
    for part in PATHS[model.config.model_type].split(".")[:-1]:
        module = getattr(module, part)
    return module


def text_config(model: Any) -> Any:
    """Return the part of the configuration that describes the language model."""
    return model.config.get_text_config()
