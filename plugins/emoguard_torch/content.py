"""Compares the content of tensors: by cheap marks, and by checksums of every byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from emoguard.errors import EmoGuardError

HEAD = 64 * 1024
"""Bytes of a tensor that `hash_heads` reads."""

ROW = 1024
"""Bytes summed into one number of a checksum."""

WORD = 8

Marks = tuple[Any, ...]

ADDRESS = torch.Tensor.data_ptr
VERSION = vars(torch._C.TensorBase)["_version"].__get__  # noqa: SLF001  (autograd's own counter)
DTYPE = vars(torch._C.TensorBase)["dtype"].__get__  # noqa: SLF001
BYTES = vars(torch._C.TensorBase)["nbytes"].__get__  # noqa: SLF001


SPARSE = 16
"""One tensor in this many has its dtype checked: models are cast whole, and sizes show most
changes."""


class Marked:
    """Tensors whose marks are checked again and again, at a quarter of a microsecond each."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        held = {id(part): part for tensor in tensors for part in plain(tensor)}
        self._tensors = [tensor for tensor in held.values() if not tensor.is_meta]
        # Tensors made in inference mode have no counter.
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]

    def marks(self) -> Marks:
        """Return addresses, sizes, dtypes and the sum of versions: equal marks, equal content.

        Writes that autograd does not see, such as those through `.data`, leave no mark. Versions
        only grow.
        """
        return (
            list(map(ADDRESS, self._tensors)),
            list(map(BYTES, self._tensors)),
            list(map(DTYPE, self._tensors[::SPARSE])),
            sum(map(VERSION, self._counted)),
        )


def plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the plain tensors inside a tensor: integers and scales of a quantised one."""
    if hasattr(tensor, "__tensor_flatten__"):
        parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        for part in parts:
            if isinstance(part, torch.Tensor):
                yield from plain(part)
    else:
        yield tensor


def checksum(tensor: torch.Tensor) -> bytes:
    """Return dtype, shape and sums of all bytes of a tensor, computed on its own device.

    One pass at the speed of memory. Not a signature: reordering within one KiB keeps the sum.
    Offloaded weights count by dtype and shape only.
    """
    return b"".join(
        f"{part.dtype} {tuple(part.shape)} ".encode() + _sums(part) for part in plain(tensor)
    )


def _sums(tensor: torch.Tensor) -> bytes:
    if tensor.is_meta:
        return b""
    with torch.no_grad():
        flat = tensor.detach().contiguous().flatten().view(torch.uint8)
        whole = len(flat) - len(flat) % ROW
        body = flat[:whole]
        if body.storage_offset() % WORD:  # words lie at whole addresses
            body = body.clone()
        rows = body.view(torch.int64).view(-1, ROW // WORD).sum(1)
        return bytes(rows.cpu().numpy().tobytes() + flat[whole:].cpu().numpy().tobytes())


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return a SHA-256 over names, shapes and checksums of whole tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} ".encode() + checksum(tensor))
    return digest.hexdigest()


def hash_heads(parts: Mapping[str, Iterable[tuple[str, torch.Tensor]]]) -> str:
    """Return a SHA-256 over names, shapes and first bytes of the first two matrices of each part.

    Raises:
        EmoGuardError: weights of which this process holds only a shard.

    """
    digest = hashlib.sha256()
    for place, matrices in parts.items():
        for name, tensor in [*matrices][:2]:
            digest.update(f"{place} {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(_head(tensor))
    return digest.hexdigest()


def quantisation(dtype: torch.dtype, config: Any) -> str:
    """Return the quantisation method, else the dtype; another dtype is another model file."""
    name = str(dtype).removeprefix("torch.")
    described = getattr(config, "quantization_config", None)
    if described is None:
        return name
    data = described if isinstance(described, dict) else described.to_dict()
    method = data.get("quant_method", "quantised")
    digest = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
    return f"{getattr(method, 'value', method)}-{digest[:8]}-{name}"


def hash_template(tokenizer: Any) -> str:
    """Return a SHA-256 over the chat template of a tokenizer, "" without one."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return ""
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def first_bytes(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor for `hash_heads`."""
    # Weights that accelerate keeps on disk cannot be read here: they count by name and shape.
    if tensor.is_meta:
        return b""
    head = tensor.detach().flatten()[: HEAD // tensor.element_size()].cpu().contiguous()
    return head.view(torch.uint8).numpy().tobytes()


def _head(tensor: torch.Tensor) -> bytes:
    if hasattr(tensor, "full_tensor"):  # a DTensor; to gather it, all processes would have to ask
        raise EmoGuardError(
            "the model's weights are sharded over processes (DTensor), so its identity cannot be "
            "told: attach before fully_shard, or load the model without tp_plan"
        )
    return b"".join(map(first_bytes, plain(tensor)))
