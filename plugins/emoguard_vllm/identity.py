"""Identifies the model file of an engine: its checkpoint, read as Transformers would load it.

vLLM fuses and shards tensors, so its workers' tensors are not the file's. Identities are those of
the Transformers plug-in, so that a calibration made there is valid here and the other way round.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from emoguard_torch.content import hash_heads, hash_template, hash_tensors, quantisation
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from emoguard.probe.identity import ModelIdentity

log = logging.getLogger("emoguard")

LARGEST = 16 * 2**30
"""Bytes of a checkpoint whose whole content is hashed: at attach, at the speed of the disk. The
identity of a larger one rests on the first bytes of a few tensors."""


def identify(config: Any, tokenizer: Any) -> ModelIdentity:
    """Return the identity of the model of a `VllmConfig`."""
    model = config.model_config
    text = model.hf_text_config
    folder = _folder(model.model, model.revision)
    files = tuple(sorted(folder.glob("*.safetensors"))) if folder else ()
    marks = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    weights, content = _hashes(_Checkpoint(model.hf_config, model.dtype, marks))
    return ModelIdentity(
        name=Path(model.model).name,
        architecture=text.model_type,
        layers=model.get_total_num_hidden_layers(),
        hidden=model.get_hidden_size(),
        quantisation=quantisation(model.dtype, model.hf_config),
        weights=weights,
        template=hash_template(tokenizer),
        content=content,
    )


class _Checkpoint:
    """The files of a checkpoint; equal if nothing of them changed."""

    def __init__(
        self, config: Any, dtype: torch.dtype, marks: tuple[tuple[str, int, int], ...]
    ) -> None:
        self.config, self.dtype, self.marks = config, dtype, marks
        self._key = (config.to_json_string(use_diff=False), dtype, marks)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Checkpoint) and self._key == other._key

    def bytes(self) -> int:
        return sum(size for _, size, _ in self.marks)

    def tensors(self) -> dict[str, str]:
        """Return the file of each tensor, by its name."""
        files: dict[str, str] = {}
        for path, _, _ in self.marks:
            with safe_open(path, "pt") as file:
                files |= dict.fromkeys(file.keys(), path)
        return files

    def read(self, path: str, name: str) -> torch.Tensor:
        with safe_open(path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


@cache
def _hashes(checkpoint: _Checkpoint) -> tuple[str, str]:
    """Return the digests of heads and of whole content.

    Of a checkpoint that Transformers would load under other names, or that is quantised or no
    safetensors file, they are of its files, and no calibration from there fits.
    """
    where = checkpoint.tensors()
    try:
        skeleton = _skeleton(checkpoint)
        known = list(_tensors(skeleton))
        if where and all(name in where for name, _ in known):
            return _as_loaded(checkpoint, skeleton, where)
    except Exception as error:  # noqa: BLE001  (a config that Transformers does not know)
        log.info("Transformers does not know this model: %s", error)
    named = sorted(where.items())[:8]
    heads = hash_heads({name: [(name, checkpoint.read(path, name))] for name, path in named})
    described = json.dumps([heads, [mark[:2] for mark in checkpoint.marks]])
    return hashlib.sha256(described.encode()).hexdigest(), ""


def _as_loaded(checkpoint: _Checkpoint, skeleton: Any, where: Mapping[str, str]) -> tuple[str, str]:
    def read(name: str) -> torch.Tensor:
        return checkpoint.read(where[name], name)

    tensors = list(_tensors(skeleton))
    names = {id(tensor): name for name, tensor in tensors}
    blocks = _blocks(skeleton)
    parts = {"embedding": skeleton.get_input_embeddings()}
    parts |= {f"block {n}": blocks[n] for n in sorted({0, len(blocks) // 2, len(blocks) - 1})}
    heads = hash_heads(
        {
            place: [(name, read(names[id(tensor)])) for name, tensor in _matrices(module)[:2]]
            for place, module in parts.items()
        }
    )
    if checkpoint.bytes() > LARGEST:
        return heads, ""
    return heads, hash_tensors((name, read(name)) for name, _ in tensors)


def _skeleton(checkpoint: _Checkpoint) -> Any:
    """Return the model that Transformers would make, without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(checkpoint.config, dtype=checkpoint.dtype)


def _blocks(skeleton: Any) -> torch.nn.ModuleList:
    count = skeleton.config.get_text_config().num_hidden_layers
    lists = (each for each in skeleton.modules() if isinstance(each, torch.nn.ModuleList))
    return next(each for each in lists if len(each) == count)


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and saved buffers by name, once each, in the order of modules."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        transient = part._non_persistent_buffers_set  # noqa: SLF001
        for owner in (part._parameters, part._buffers):  # noqa: SLF001
            for key, tensor in owner.items():
                if tensor is not None and key not in transient and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{key}".removeprefix("."), tensor


def _matrices(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    matrices = [(name, each) for name, each in _tensors(module) if each.ndim > 1]
    return sorted(matrices, key=lambda pair: pair[0])


def _folder(model: str, revision: str | None) -> Path | None:
    """Return the place of a checkpoint: a folder, or the cache of the Hugging Face hub."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # not there, or no name of a repository
        return None
