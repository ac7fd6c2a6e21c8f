"""Finds the decoder blocks of a vLLM model that this process holds."""

from __future__ import annotations

from typing import Any

from torch import nn

from emoguard.errors import EmoGuardError

STAGE_ENDS = ("start_layer", "end_layer")
"""Attributes that bound a pipeline stage's own blocks; others are placeholders."""


def find_blocks(model: Any) -> dict[int, nn.Module]:
    """Return the decoder blocks that this stage runs, by their number in the whole model.

    Raises:
        EmoGuardError: a model whose blocks do not lie where vLLM's decoders have them.

    """
    body = next((body for body in _bodies(model) if _layers(body) is not None), None)
    layers = _layers(body)
    if layers is None:
        raise EmoGuardError(
            f"{type(model).__name__} keeps its decoder blocks where EmoGuard does not find them "
            "(wanted model.model.layers): start this engine without EmoGuard in additional_config"
        )
    first, end = (getattr(body, name, None) for name in STAGE_ENDS)
    first, end = first or 0, len(layers) if end is None else end
    return {number: layers[number] for number in range(first, end)}


def _bodies(model: Any) -> list[Any]:
    """Return the places where blocks may lie, without the wrappers of vision-language models."""
    inner = getattr(model, "language_model", model)
    return [part for part in (getattr(inner, "model", None), inner) if part is not None]


def _layers(body: Any) -> nn.ModuleList | None:
    layers = getattr(body, "layers", None)
    return layers if isinstance(layers, nn.ModuleList) else None
