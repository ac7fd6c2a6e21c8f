"""Identifies the model in a Transformers object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from emoguard_torch.content import (
    first_bytes,
    hash_heads,
    hash_template,
    hash_tensors,
    plain,
    quantisation,
)

from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity, model_name
from emoguard_transformers.adapters import Adapters, Named, base_of, wrapped_by
from emoguard_transformers.blocks import find_blocks, text_config


@dataclass(frozen=True, eq=False)
class Weights:
    """What a model is made of, as if no adapter were on it: `tensors` by name, once each.

    `adapters` are on the layers that PEFT put in the place of others, by the names of those.
    """

    tensors: list[tuple[str, torch.Tensor]]
    adapters: Adapters

    @classmethod
    def of(cls, module: torch.nn.Module) -> Self:
        """Take a model apart. Buffers count where they are saved with it."""
        parts: dict[int, tuple[str, torch.Tensor]] = {}
        adapted: list[Named] = []
        for name, part in _parts(module, ""):
            if isinstance(part, torch.nn.Module):
                adapted.append((name, part))
            else:
                parts.setdefault(id(part), (name, part))
        return cls(list(parts.values()), Adapters(adapted))


def _parts(module: torch.nn.Module, name: str) -> Iterator[tuple[str, Any]]:
    base = base_of(module)
    while module is not base:  # PEFT may wrap what it wrapped before
        yield name, module
        module = wrapped_by(module) or base
    transient = base._non_persistent_buffers_set  # noqa: SLF001
    for owner in (base._parameters, base._buffers):  # noqa: SLF001
        for key, tensor in owner.items():
            if tensor is not None and key not in transient:
                yield f"{name}.{key}".removeprefix("."), tensor
    for key, child in base._modules.items():  # noqa: SLF001
        if child is not None:
            yield from _parts(child, f"{name}.{key}".removeprefix("."))


def identify(model: Any, tokenizer: Any = None, weights: Weights | None = None) -> ModelIdentity:
    """Return the identity of `model`; the chat template counts where a tokenizer is given.

    `weights` is what it is made of, if the caller has taken it apart already.

    Raises:
        EmoGuardError: as `find_blocks`; weights of which this process holds only a shard, or that
            are tensors of a class whose numbers cannot be read.

    """
    blocks = find_blocks(model)
    config = text_config(model)
    weights = weights or Weights.of(model)
    _check_readable(weights)
    name = getattr(model.config, "_name_or_path", "")
    return ModelIdentity(
        name=model_name(name) or type(model).__name__,
        architecture=config.model_type,
        layers=len(blocks),
        hidden=config.hidden_size,
        quantisation=quantisation(model.dtype, model.config),
        weights=_hash_heads(model, blocks),
        template=hash_template(tokenizer),
        adapters=weights.adapters.names(),
        content=hash_tensors(weights.tensors),
    )


def _check_readable(weights: Weights) -> None:
    """Refuse tensors of a class that does not name its parts.

    Raises:
        EmoGuardError: the message names the tensor and its class.

    """
    seen: set[type] = set()
    for name, tensor in weights.tensors:
        if type(tensor) in seen or tensor.is_meta:
            continue
        seen.add(type(tensor))
        try:
            for part in plain(tensor):
                first_bytes(part[:0] if part.ndim else part)
        except (NotImplementedError, RuntimeError, TypeError) as error:
            kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
            raise EmoGuardError(
                f"the weight {name} is a {kind}, which does not show what it is made of "
                f"({type(error).__name__}): load the model with another quantisation"
            ) from error


def _hash_heads(model: Any, blocks: torch.nn.ModuleList) -> str:
    """Return a SHA-256 over names, shapes and first bytes of tensors at both ends and between."""
    parts = {"embedding": model.get_input_embeddings()}
    parts |= {f"block {n}": blocks[n] for n in sorted({0, len(blocks) // 2, len(blocks) - 1})}
    return hash_heads({place: _matrices(module) for place, module in parts.items()})


def _matrices(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the weight matrices of `module` by name; what an adapter adds is left out."""
    return sorted(
        (name, tensor.detach())
        for name, tensor in Weights.of(module).tensors
        if tensor.ndim > 1 and isinstance(tensor, torch.nn.Parameter)
    )
