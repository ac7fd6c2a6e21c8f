"""Which model a Transformers object holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from emoguard.errors import EmoGuardError
from emoguard.identity import ModelIdentity
from emoguard_transformers.blocks import find_blocks, text_config

HEAD = 64 * 1024
"""Bytes hashed of each named tensor."""


def identify(model: Any, tokenizer: Any = None) -> ModelIdentity:
    """Return the identity of `model`; the chat template counts where a tokenizer is given.

    Raises:
        EmoGuardError: as `find_blocks`; weights of which this process holds only a shard.

    """
    blocks = find_blocks(model)
    config = text_config(model)
    name = getattr(model.config, "_name_or_path", "")
    return ModelIdentity(
        name=Path(name).name or type(model).__name__,
        architecture=config.model_type,
        layers=len(blocks),
        hidden=config.hidden_size,
        quantisation=_quantisation(model),
        weights=_hash_weights(model, blocks),
        template=_hash_template(tokenizer),
        adapters=active_adapters(model),
    )


def active_adapters(model: Any) -> tuple[str, ...]:
    """Return the names of the PEFT adapters that act on `model` now, sorted."""
    names: set[str] = set()
    for module in model.modules():
        # PEFT puts its own layers in place of the ones it adapts. The check is made for every
        # generation, so it must be cheap.
        if type(module).__module__.startswith("peft.tuners"):
            names |= _adapters_of(module)
    return tuple(sorted(names))


def _adapters_of(module: Any) -> set[str]:
    merged = set(getattr(module, "merged_adapters", ()))
    if getattr(module, "disable_adapters", True):
        return merged
    active = getattr(module, "active_adapters", ())
    return merged | set(active if not callable(active) else active())


def _quantisation(model: Any) -> str:
    """Return the quantisation method, else the dtype; another dtype is another model file."""
    dtype = str(model.dtype).removeprefix("torch.")
    described = getattr(model.config, "quantization_config", None)
    if described is None:
        return dtype
    data = described if isinstance(described, dict) else described.to_dict()
    method = data.get("quant_method", "quantised")
    digest = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
    return f"{getattr(method, 'value', method)}-{digest[:8]}-{dtype}"


def _hash_template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return ""
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _hash_weights(model: Any, blocks: torch.nn.ModuleList) -> str:
    """Return a SHA-256 over names, shapes and first bytes of tensors at both ends and between."""
    digest = hashlib.sha256()
    parts = {"embedding": model.get_input_embeddings()}
    parts |= {f"block {n}": blocks[n] for n in sorted({0, len(blocks) // 2, len(blocks) - 1})}
    for place, module in parts.items():
        for name, tensor in _matrices(module)[:2]:
            digest.update(f"{place} {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(_head(tensor))
    return digest.hexdigest()


def _matrices(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the weight matrices of `module` by name; what an adapter adds is left out."""
    return sorted(
        (name.replace(".base_layer", "").replace("base_layer.", ""), parameter.detach())
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1 and "lora_" not in name
    )


def _head(tensor: torch.Tensor) -> bytes:
    if hasattr(tensor, "full_tensor"):  # a DTensor; to gather it, all processes would have to ask
        raise EmoGuardError(
            "the model's weights are sharded over processes (DTensor), so its identity cannot be "
            "told: attach before fully_shard, or load the model without tp_plan"
        )
    # Weights that accelerate keeps on disk are not there to be read: name and shape must do.
    if tensor.is_meta:
        return b""
    head = tensor.flatten()[: HEAD // tensor.element_size()].cpu().contiguous()
    return head.view(torch.uint8).numpy().tobytes()
