"""Prompts an engine in words, for `emoguard fit`, `calibrate` and `validate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from transformers import AutoConfig
from vllm import LLM, SamplingParams
from vllm.platforms import current_platform

from emoguard.errors import EmoGuardError
from emoguard.probe.residuals import Residuals
from emoguard.runtime.speaker import Generated, Prompt
from emoguard.runtime.watched import Options
from emoguard_vllm.door import Door
from emoguard_vllm.engine import Engine

CONTEXT = 4096
"""Tokens of prompt and answer together that there is room for."""


class VllmSpeaker:
    """See `emoguard.runtime.speaker.Speaker`; `model` is a `vllm.LLM` with hooks on all layers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.options: Options = {}
        self._tokenizer = model.get_tokenizer()
        self.has_template = bool(self._tokenizer.chat_template)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Start an engine on a folder, in its own dtype, one request at a time.

        A whole prompt fits into a step: seeds of sampling do not work with chunks on CPUs.

        Raises:
            EmoGuardError: it is no folder of a model.
            ValueError, RuntimeError: vLLM cannot run it.

        """
        if not (path / "config.json").is_file():
            raise EmoGuardError(
                f"vLLM is read on a Transformers folder, got {path}: give the folder of the model, "
                "or leave out --engine"
            )
        config = AutoConfig.from_pretrained(path)
        text = config.get_text_config()
        length = min(CONTEXT, text.max_position_embeddings)
        model = LLM(
            str(path),
            dtype=str(config.dtype or "auto").removeprefix("torch."),
            max_model_len=length,
            max_num_batched_tokens=length,
            max_num_seqs=1,
            enforce_eager=True,
            kv_cache_memory_bytes=_room(text, length) if current_platform.is_cpu() else None,
            additional_config={"emoguard": {"door": True}},
        )
        return cls(model)

    @cached_property
    def door(self) -> Residuals:
        """The offline door into the model."""
        return Door(Engine(self.model))

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt, in the chat template unless it is raw."""
        if prompt.raw or not self.has_template:
            return list(self._tokenizer.encode(prompt.plain))
        ids = self._tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, return_dict=True
        )
        return list(ids["input_ids"])

    def answer(self, prompt: Prompt, tick: Callable[[], None]) -> str:
        """Answer; an `LLM` gives whole answers, so ticks come together at the end."""
        choice = self._generate(prompt)
        for _ in choice.token_ids:
            tick()
        return str(choice.text)

    def respond(self, prompt: Prompt) -> Generated:
        """Respond; the end token is left out."""
        choice = self._generate(prompt)
        token_ids = list(choice.token_ids)
        if choice.finish_reason == "stop" and token_ids:
            token_ids.pop()
        return Generated(self.prompt_ids(prompt), token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _generate(self, prompt: Prompt) -> Any:
        sampling = SamplingParams(
            temperature=prompt.temperature,
            max_tokens=prompt.max_tokens,
            seed=prompt.seed if prompt.temperature > 0 else None,
            skip_reading_prefix_cache=True,
        )
        tokens = {"prompt_token_ids": self.prompt_ids(prompt)}
        (output,) = self.model.generate([tokens], sampling, use_tqdm=False)
        return output.outputs[0]


def _room(config: Any, length: int) -> int:
    """Return bytes for the KV cache of one request in float32, and as much again for its blocks.

    vLLM itself takes nearly all memory of a machine, and does not start where others use some.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    both = 2 * 4 * heads * size  # a key and a value
    return int(2 * both * length * config.num_hidden_layers)
