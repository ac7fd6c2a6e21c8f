"""Which file a `llama_cpp.Llama` holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as bindings

from emoguard import regularfile
from emoguard.errors import EmoGuardError
from emoguard.identity import ModelIdentity
from emoguard_llamacpp import ctypes_llama

HEAD = 64 * 1024
"""Bytes hashed of each named tensor."""


def identify(llm: Any) -> ModelIdentity:
    """Return the identity of the file behind `llm`."""
    path = Path(llm.model_path)
    template = llm.metadata.get("tokenizer.chat_template", "")
    return ModelIdentity(
        name=llm.metadata.get("general.name") or path.stem,
        architecture=llm.metadata.get("general.architecture", "unknown"),
        layers=bindings.llama_model_n_layer(llm.model),
        hidden=llm.n_embd(),
        quantisation=quantisation(llm),
        weights=hash_weights(path, bindings.llama_model_n_layer(llm.model)),
        template=hashlib.sha256(template.encode()).hexdigest() if template else "",
        adapters=(str(llm.lora_path),) if llm.lora_path else (),
    )


def quantisation(llm: Any) -> str:
    """Return the file type as llama.cpp's constants name it: F32, Q4_1, Q4_K_M …"""
    number = bindings.llama_model_ftype(llm.model) & ~bindings.LLAMA_FTYPE_GUESSED
    for name, value in vars(bindings).items():
        kind = name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_")
        if name.startswith("LLAMA_FTYPE_") and value == number:
            return kind
    return f"type {number}"


def hash_weights(path: Path, layers: int) -> str:
    """Return a SHA-256 over names, types and first 64 KiB of a few tensors.

    One tensor per kind of place: embedding, and attention and feed-forward in the first, middle and
    last block, under the names GGUF gives them; those a file lacks are left out.
    """
    blocks = sorted({0, layers // 2, layers - 1})
    places = ("attn_norm", "attn_q", "attn_output", "ffn_down", "ffn_gate_inp", "ssm_out")
    wanted = {"token_embd.weight", "output_norm.weight"}
    wanted |= {f"blk.{block}.{place}.weight" for block in blocks for place in places}
    tensors = [t for t in ctypes_llama.gguf_tensors(path) if t.name in wanted]
    if not tensors:
        raise EmoGuardError(f"{path.name} holds no tensor of a known name: is it a language model?")
    digest = hashlib.sha256()
    with regularfile.opened(path) as file:
        for tensor in sorted(tensors, key=lambda t: t.name):
            file.seek(tensor.start)
            digest.update(f"{tensor.name} {tensor.type} {tensor.size} ".encode())
            digest.update(file.read(min(tensor.size, HEAD)))
    return digest.hexdigest()
