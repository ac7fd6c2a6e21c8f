"""Tiny random GGUF files of several architectures, written with the `gguf` package.

Five blocks of width 64 over a byte vocabulary: real enough for every code path of llama.cpp, a few
hundred kilobytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS, HIDDEN, HEADS, HEAD, FEED = 5, 64, 2, 32, 96
SPECIAL = ("<unk>", "<s>", "</s>", "<think>", "</think>")
THINKING = SPECIAL.index("<think>"), SPECIAL.index("</think>")
PIECES = ("\u2581", "e", "t", "a", "o", "\u2581t", "he", "\u2581the", "in", "er")
TEMPLATE = "{# <think>…</think> #}{% for m in messages %}{{ m['content'] }}{% endfor %}"

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3", "gemma4", "apertus")
VOCABULARY = len(SPECIAL) + 256 + len(PIECES)
GEMMA = ("gemma3", "gemma4")


def write(path: Path, architecture: str, seed: int = 0, blocks: int = BLOCKS) -> Path:
    """Write a random model of `architecture` to `path` and return it."""
    import gguf

    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name(f"tiny random {architecture}")
    _add_sizes(writer, architecture, blocks)
    _add_vocabulary(writer)
    rng = np.random.default_rng(seed)
    for name, shape in tensors(architecture, blocks):
        writer.add_tensor(name, _values(name, shape, rng))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    noise = rng.normal(size=shape)
    if "norm" in name or "scale" in name:
        return (1 + 0.1 * noise).astype(np.float32)
    # Large enough that blocks change the residual: neighbouring layers must be tellable apart.
    return (noise * (2.0 / np.sqrt(shape[-1]))).astype(np.float32)


def _add_sizes(writer: Any, architecture: str, blocks: int) -> None:
    writer.add_file_type(0)
    writer.add_context_length(1024)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    _add_own_keys(writer, architecture, blocks)


def _add_own_keys(writer: Any, architecture: str, blocks: int) -> None:
    if architecture in GEMMA:
        writer.add_sliding_window(512)
    if architecture == "gemma4":
        writer.add_sliding_window_pattern([True, False, True, False, True][:blocks])
        writer.add_key_length_swa(HEAD)
        writer.add_value_length_swa(HEAD)
        writer.add_uint32("gemma4.rope.dimension_count_swa", HEAD)
        writer.add_embedding_length_per_layer_input(0)
        writer.add_shared_kv_layers(0)
    if architecture == "apertus":
        writer.add_xielu_alpha_n([0.8] * blocks)
        writer.add_xielu_alpha_p([0.8] * blocks)
        writer.add_xielu_beta([0.5] * blocks)
        writer.add_xielu_eps([1e-6] * blocks)


def _add_vocabulary(writer: Any) -> None:
    import gguf

    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    kind = gguf.TokenType
    special = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, kind.USER_DEFINED, kind.USER_DEFINED]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * (len(SPECIAL) + 256) + [-float(n) for n in range(len(PIECES))])
    writer.add_token_types([*special, *[kind.BYTE] * 256, *[kind.NORMAL] * len(PIECES)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)


def tensors(architecture: str, blocks: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor, rows first."""
    yield "token_embd.weight", (VOCABULARY, HIDDEN)
    yield "output_norm.weight", (HIDDEN,)
    yield "output.weight", (VOCABULARY, HIDDEN)
    if architecture == "gemma4":
        yield "rope_freqs.weight", (HEAD // 2,)
    for block in range(blocks):
        for name, shape in _block(architecture):
            yield f"blk.{block}.{name}", shape


def _block(architecture: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    inner = HEADS * HEAD
    yield "attn_norm.weight", (HIDDEN,)
    yield "attn_output.weight", (HIDDEN, inner)
    yield "ffn_norm.weight", (HIDDEN,)
    yield "ffn_up.weight", (FEED, HIDDEN)
    yield "ffn_down.weight", (HIDDEN, FEED)
    for name in "qkv":
        yield f"attn_{name}.weight", (inner, HIDDEN)
    yield from EXTRA[architecture]


NORMED_HEADS = (("attn_q_norm.weight", (HEAD,)), ("attn_k_norm.weight", (HEAD,)))
GATE = (("ffn_gate.weight", (FEED, HIDDEN)),)
AFTER = (("post_attention_norm.weight", (HIDDEN,)), ("post_ffw_norm.weight", (HIDDEN,)))
EXTRA: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "llama": GATE,
    "qwen2": (*GATE, *((f"attn_{name}.bias", (HEADS * HEAD,)) for name in "qkv")),
    "qwen3": (*GATE, *NORMED_HEADS),
    "gemma3": (*GATE, *NORMED_HEADS, *AFTER),
    "gemma4": (*GATE, *NORMED_HEADS, *AFTER, ("layer_output_scale.weight", (1,))),
    "apertus": NORMED_HEADS,
}

Load = Callable[..., Any]


def load(path: Path, **options: Any) -> Any:
    """Return a quiet one-thread `llama_cpp.Llama`."""
    import llama_cpp

    settings = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "verbose": False, "seed": 1}
    return llama_cpp.Llama(str(path), **(settings | options))
