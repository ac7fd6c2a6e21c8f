"""Which file a `llama_cpp.Llama` holds."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as bindings

from emoguard import regularfile
from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity
from emoguard.runtime.interrupts import is_interrupt
from emoguard_llamacpp import ctypes_llama

log = logging.getLogger("emoguard")

HEAD = 64 * 1024
"""Bytes hashed of each named tensor."""

WINDOW = 4 * 1024
"""Bytes hashed at the start, in the middle and at the end of every tensor."""

CHUNK = 2**20
"""Bytes of a LoRA file that are read at a time."""

Marks = tuple[Any, ...]


class Held:
    """The files that `llm` holds: content is read again where a mark of them has changed.

    Marks are size, times and inode of the model file and of the LoRA file, and `lora_scale`. What
    llama.cpp has in memory cannot be looked at: a file that changed after it was loaded is taken
    for what the model holds, and calls that set adapters past the `Llama` are not seen.

    Raises:
        EmoGuardError: as `identify`.

    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._seen: tuple[Marks, ModelIdentity] = marks(llm), identify(llm)

    def identity(self, *, anew: bool = False) -> ModelIdentity:
        """Return the identity of this moment; `anew` reads content whatever the marks say.

        Never raises: of a file that cannot be read any more, what was read last is still held.
        """
        try:
            now = marks(self._llm)
            if anew or now != self._seen[0]:
                self._seen = now, identify(self._llm)
        except Exception as error:  # the response must not notice
            if is_interrupt(error):
                raise
            if self._seen[0]:  # once
                log.warning("the model's file cannot be read any more: %s", error)
            self._seen = (), self._seen[1]
        return self._seen[1]


def marks(llm: Any) -> Marks:
    """Return what differs as soon as another file is in a file's place.

    Raises:
        OSError: a file that is not there.

    """
    files = (Path(path).stat() for path in (llm.model_path, llm.lora_path) if path)
    stats = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in files]
    return llm.model_path, llm.lora_path, llm.lora_scale, *stats


def identify(llm: Any) -> ModelIdentity:
    """Return the identity of the file behind `llm`.

    Raises:
        EmoGuardError: a file that cannot be read, or holds no language model.

    """
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
        adapters=(hash_lora(llm.lora_path, llm.lora_scale),) if llm.lora_path else (),
        content=hash_content(path),
    )


def hash_lora(path: str, scale: float) -> str:
    """Return content and scale of a LoRA file: `3f0c…*0.5`.

    Raises:
        EmoGuardError: a file that cannot be read.

    """
    try:
        with regularfile.opened(path) as file:
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise EmoGuardError(
            f"the LoRA file {path} cannot be read ({error.strerror}): leave it where it was loaded "
            "from"
        ) from error
    return f"{digest.hexdigest()[:16]}*{scale:g}"


def hash_content(path: Path) -> str:
    """Return a SHA-256 over names, types, sizes and three windows of every tensor of a file."""
    digest = hashlib.sha256()
    with regularfile.opened(path) as file:
        for tensor in ctypes_llama.gguf_tensors(path):
            digest.update(f"{tensor.name} {tensor.type} {tensor.size} ".encode())
            last = max(0, tensor.size - WINDOW)
            for start in sorted({0, last // 2, last}):
                file.seek(tensor.start + start)
                digest.update(file.read(min(tensor.size, WINDOW)))
    return digest.hexdigest()


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
