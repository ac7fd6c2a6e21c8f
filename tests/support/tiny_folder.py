"""A tiny random Transformers folder: a llama model, and a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.hf_models import build


def write(path: Path) -> Path:
    """Write a random model and its tokenizer to the folder `path` and return it."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(path)
    build(vocab_size=len(tokenizer)).save_pretrained(path)
    return path


def byte_tokenizer() -> Any:
    """Return a tokenizer whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {letter: n + 3 for n, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
