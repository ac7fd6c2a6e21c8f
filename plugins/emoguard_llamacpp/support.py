"""Chooses the read path of a model: the shipped allow-list, and architectures refused by name."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any, Literal

import llama_cpp

from emoguard.errors import EmoGuardError
from emoguard.probe.probe import Probe
from emoguard_llamacpp import ctypes_llama

Path = Literal["native", "callback"]

MANY_STREAMS = {
    "deepseek4": "it mixes several residual streams (hyper-connections)",
    "gemma3n": "it carries several predictions of the residual stream (AltUp)",
    "t5": "it is an encoder-decoder model",
    "t5encoder": "it is an encoder",
    "bert": "it is an encoder",
    "nomic-bert": "it is an encoder",
    "jina-bert-v2": "it is an encoder",
    "modern-bert": "it is an encoder",
    "wavtokenizer-dec": "it is an audio decoder",
}
"""Architectures without one residual stream per generated token, and why."""


@functools.cache
def allow_list() -> dict[str, tuple[str, ...]]:
    """Return library version → architectures whose native read the tests have checked."""
    text = (files("emoguard_llamacpp") / "native.json").read_text(encoding="utf-8")
    return {version: tuple(names) for version, names in json.loads(text).items()}


def native_allowed(architecture: str) -> bool:
    """Return whether the native read is known to be safe here.

    On a graph that does not fill it in, llama.cpp aborts the process: unknown means no.
    """
    known = allow_list().get(llama_cpp.__version__, ())
    return architecture in known and ctypes_llama.has_layer_input()


def check_model(llm: Any) -> None:
    """Refuse a `Llama` that does not generate one token per forward pass."""
    if llm.model is None or llm.ctx is None:
        raise EmoGuardError("wanted an open Llama, got one that was closed: load it again")
    if llm.model_params.vocab_only:
        raise EmoGuardError("wanted a model with weights, got vocab_only=True: load it without")
    if llm.context_params.embeddings:
        raise EmoGuardError(
            "wanted a model that generates, got embedding=True: load it without to watch it"
        )
    if getattr(llm, "draft_model", None) is not None:
        raise EmoGuardError(
            "speculative decoding has no one reading per token: load the Llama without draft_model"
        )


def takes_media(llm: Any) -> bool:
    """Return whether chats with `llm` may hold images or sound.

    Their handler computes them straight into the cache: they cannot be recomputed from token ids.
    """
    return hasattr(llm.chat_handler, "mtmd_ctx")


def choose(architecture: str, backend: str) -> Path:
    """Return the read path for `architecture`, as requested by `backend`.

    Raises:
        EmoGuardError: an unknown backend, an architecture without a single residual stream, or
            `native` where it is not known to be safe.

    """
    if backend not in ("auto", "native", "callback"):
        raise EmoGuardError(f'backend must be "auto", "native" or "callback", got {backend!r}')
    if architecture in MANY_STREAMS:
        raise EmoGuardError(f"{architecture} cannot be read: {MANY_STREAMS[architecture]}")
    if native_allowed(architecture) and backend != "callback":
        return "native"
    if backend == "native":
        known = ", ".join(allow_list().get(llama_cpp.__version__, ())) or "nothing"
        raise EmoGuardError(
            f"the native read of {architecture} is not known to be safe with llama-cpp-python "
            f"{llama_cpp.__version__} (checked with it: {known}): use backend='auto'"
        )
    return "callback"


def check_layers(layers: Any, blocks: int) -> None:
    """Refuse layers outside [0, blocks - 2]: the last block is never read."""
    wrong = [layer for layer in layers if not 0 <= layer < blocks - 1]
    if wrong:
        raise EmoGuardError(f"layers must lie in [0, {blocks - 2}], got {wrong}")


def check_witness(probe: Probe, llm: Any) -> None:
    """Refuse a probe whose witness text this model cannot run at all."""
    tokens = probe.witness.token_ids
    if tokens.min() < 0 or tokens.max() >= llm.n_vocab():
        raise EmoGuardError(
            f"probe {probe.name} was made with a larger vocabulary than the {llm.n_vocab()} tokens "
            "of this model: run emoguard fit on it"
        )
    if len(tokens) >= llm.n_ctx():
        raise EmoGuardError(
            f"checking the probe takes {len(tokens)} tokens, this Llama holds {llm.n_ctx()}: "
            "load it with a larger n_ctx"
        )
