"""Identifies the active PEFT adapters of a model by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from emoguard_torch.content import Marked, Marks, checksum

Named = tuple[str, torch.nn.Module]

BASE = "__base__"
"""PEFT's name for no adapter, in a batch whose rows have different ones."""

MIXED = "rows differ"
"""Stands beside the adapters of a batch whose rows have different ones."""


def wrapped_by(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return the module that this layer of PEFT replaces; None for any other module."""
    if type(module).__module__.partition(".")[0] != "peft":
        return None
    inside = module._modules  # noqa: SLF001
    return inside.get("base_layer") or inside.get("original_module")


def base_of(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module that was there before PEFT."""
    while (inner := wrapped_by(module)) is not None:
        module = inner
    return module


class Adapters:
    """The adapter layers of a model, by the paths of what they adapt.

    `layers` never change: for others, a new object is made.
    """

    def __init__(self, layers: Sequence[Named]) -> None:
        self._layers = list(layers)
        self._fields = [vars(layer) for _, layer in layers]
        self._hooks = [layer._forward_pre_hooks for _, layer in layers[:1]]  # noqa: SLF001
        self._tensors = [_tensors(layer) for _, layer in layers]
        self._marked = Marked(t for tensors in self._tensors for _, t in tensors)
        self._checksums: dict[tuple[int, str], bytes] = {}
        self._seen = self._marked.marks()

    def merged(self) -> list[Any]:
        """Return the adapters merged into each layer: PEFT leaves no mark on base weights."""
        return [tuple(fields.get("merged_adapters", ())) for fields in self._fields]

    def marks(self) -> Marks:
        """Return marks that change with the active adapters, their layers, scales and content."""
        switches = [
            (
                fields.get("_disable_adapters"),
                str(fields.get("_active_adapter")),
                tuple(fields.get("scaling", {}).items()),
            )
            for fields in self._fields
        ]
        return (switches, self._by_row(), *self._marked.marks())

    def names(self) -> tuple[str, ...]:
        """Return the content of each adapter that acts, with its scale, sorted: `3f…*0.5`."""
        marks = self._marked.marks()
        if marks != self._seen:
            self._checksums.clear()
            self._seen = marks
        rows = self._by_row()
        chosen = dict.fromkeys(rows)
        acting = [list(chosen) if rows else _active(layer) for _, layer in self._layers]
        names = dict.fromkeys(name for each in acting for name in each if name != BASE)
        contents = (self._content(name, acting) for name in names)
        mixed = (MIXED,) if len(chosen) > 1 else ()
        return (*sorted(each for each in contents if each), *mixed)

    def _content(self, name: str, acting: Sequence[Sequence[str]]) -> str:
        """Return digest and scale of one adapter, "" where no layer has it."""
        digest, scales = hashlib.sha256(), []
        for index, (path, layer) in enumerate(self._layers):
            if name in acting[index] and (content := self._checksum(index, name)):
                digest.update(f"{path} ".encode() + content)
                scales.append(getattr(layer, "scaling", {}).get(name, 1.0))
        if not scales:
            return ""
        if len(set(scales)) > 1:
            digest.update(repr(scales).encode())
            return f"{digest.hexdigest()[:16]}*{min(scales):g}..{max(scales):g}"
        return f"{digest.hexdigest()[:16]}*{scales[0]:g}"

    def _checksum(self, index: int, name: str) -> bytes:
        key = index, name
        if key not in self._checksums:
            self._checksums[key] = b"".join(
                ".".join(part for part in parts if part != name).encode() + checksum(tensor)
                for parts, tensor in self._tensors[index]
                if name in parts
            )
        return self._checksums[key]

    def _by_row(self) -> list[str]:
        """Return the adapters of the rows of this call (`adapter_names=`), none without."""
        return [
            str(name)
            for hooks in self._hooks
            for hook in hooks.values()
            for name in getattr(hook, "keywords", {}).get("adapter_names") or ()
        ]


def soft_prompt(model: Any) -> tuple[str, torch.nn.Module] | None:
    """Return kind and encoder of the soft prompt before this call, None without one.

    PEFT leaves the model unchanged and gives it another method while `generate` of the wrapper
    runs. `generate` of the model itself runs without.
    """
    wrapper: Any = getattr(vars(model).get("prepare_inputs_for_generation"), "__self__", None)
    config = getattr(wrapper, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    return str(config.peft_type), wrapper.prompt_encoder[wrapper.active_adapter]


def _active(layer: Any) -> list[str]:
    """Return the adapters that act in a layer; one that is merged is in the base weights."""
    if getattr(layer, "disable_adapters", True) or getattr(layer, "merged_adapters", ()):
        return []
    active = getattr(layer, "active_adapters", ())
    return list(active() if callable(active) else active)


def _tensors(layer: torch.nn.Module) -> list[tuple[list[str], torch.Tensor]]:
    """Return PEFT's tensors in a layer, each with the parts of its name, one the adapter's."""
    return [(name.split("."), tensor) for name, tensor in sorted(_added(layer), key=lambda t: t[0])]


def _added(layer: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    inside = ("base_layer.", "original_module.")
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        if not name.startswith(inside):
            yield name, tensor
