"""Identifies the file in a `llama_cpp.Llama`."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as bindings

from emoguard import regularfile
from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity
from emoguard.runtime.interrupts import is_interrupt
from emoguard_llamacpp import ctypes_gguf

log = logging.getLogger("emoguard")

HEAD = 64 * 1024
"""Bytes hashed of each named tensor."""

WINDOW = 4 * 1024
"""Bytes hashed at the start, in the middle and at the end of every tensor."""

PART = re.compile(r"(?P<name>.+)-\d{5}-of-\d{5}\.gguf")
"""llama.cpp's names of the parts of a split file, by which it finds the others."""

CHUNK = 2**20
"""Bytes of a LoRA file that are read at a time."""

Marks = tuple[Any, ...]


class Held:
    """The files that `llm` holds: content is read again where a mark of them has changed.

    Marks are size, times and inode of the model's files and of the LoRA file, and `lora_scale`.
    llama.cpp's memory cannot be inspected: a file that changed after it was loaded is taken for the
    model's, and calls that set adapters past the `Llama` are not seen.

    Raises:
        EmoGuardError: as `identify`.

    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._seen: tuple[Marks, ModelIdentity] = marks(llm), identify(llm)

    def identity(self, *, anew: bool = False) -> ModelIdentity:
        """Return the present identity; `anew` reads content even if no mark changed.

        Never raises: for a file that can no longer be read, the last identity stays.
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
    """Return marks that differ as soon as a file is replaced.

    Raises:
        OSError: a file that is not there.

    """
    lora = [Path(llm.lora_path)] if llm.lora_path else []
    files = (path.stat() for path in (*model_files(llm), *lora))
    stats = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in files]
    return llm.model_path, llm.lora_path, llm.lora_scale, *stats


def model_files(llm: Any) -> list[Path]:
    """Return the file behind `llm`, or all parts of one that was split, in their order.

    Raises:
        EmoGuardError: a part is not where llama.cpp found it.

    """
    path, parts = Path(llm.model_path), int(llm.metadata.get("split.count", 0))
    if parts < 2:
        return [path]
    named = PART.fullmatch(path.name)
    name = named["name"] if named else path.stem
    files = [path.with_name(f"{name}-{n:05d}-of-{parts:05d}.gguf") for n in range(1, parts + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise EmoGuardError(
            f"{path.name} is split into {parts} parts, and not all are beside it "
            f"({', '.join(missing)}): leave them where they were loaded from"
        )
    return files


def identify(llm: Any) -> ModelIdentity:
    """Return the identity of the file behind `llm`: the same whether or not it is split.

    Raises:
        EmoGuardError: a file that cannot be read, or holds no language model.

    """
    files = model_files(llm)
    template = llm.metadata.get("tokenizer.chat_template", "")
    return ModelIdentity(
        name=llm.metadata.get("general.name") or files[0].stem,
        architecture=llm.metadata.get("general.architecture", "unknown"),
        layers=bindings.llama_model_n_layer(llm.model),
        hidden=llm.n_embd(),
        quantisation=quantisation(llm),
        weights=hash_weights(files, bindings.llama_model_n_layer(llm.model)),
        template=hashlib.sha256(template.encode()).hexdigest() if template else "",
        adapters=(hash_lora(llm.lora_path, llm.lora_scale),) if llm.lora_path else (),
        content=hash_content(files),
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


def hash_content(files: Sequence[Path]) -> str:
    """Return a SHA-256 over names, types, sizes and three windows of every tensor of a model."""
    digest = hashlib.sha256()
    for path in files:
        with regularfile.opened(path) as file:
            for tensor in ctypes_gguf.gguf_tensors(path):
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


def hash_weights(files: Sequence[Path], layers: int) -> str:
    """Return a SHA-256 over names, types and first 64 KiB of a few tensors.

    One tensor per kind of place: embedding, and attention and feed-forward in the first, middle and
    last block, under the names GGUF gives them; those a file lacks are left out.
    """
    blocks = sorted({0, layers // 2, layers - 1})
    places = ("attn_norm", "attn_q", "attn_output", "ffn_down", "ffn_gate_inp", "ssm_out")
    wanted = {"token_embd.weight", "output_norm.weight"}
    wanted |= {f"blk.{block}.{place}.weight" for block in blocks for place in places}
    heads: dict[str, bytes] = {}
    for path in files:
        with regularfile.opened(path) as file:
            for tensor in ctypes_gguf.gguf_tensors(path):
                if tensor.name in wanted:
                    file.seek(tensor.start)
                    head = file.read(min(tensor.size, HEAD))
                    heads[tensor.name] = (
                        f"{tensor.name} {tensor.type} {tensor.size} ".encode() + head
                    )
    if not heads:
        raise EmoGuardError(
            f"{files[0].name} holds no tensor of a known name: is it a language model?"
        )
    return hashlib.sha256(b"".join(head for _, head in sorted(heads.items()))).hexdigest()
