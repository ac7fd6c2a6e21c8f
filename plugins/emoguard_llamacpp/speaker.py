"""Prompts a GGUF file in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from emoguard.errors import EmoGuardError
from emoguard.probe.residuals import Residuals
from emoguard.runtime.speaker import Generated, Prompt
from emoguard.runtime.watched import Options
from emoguard_llamacpp import ctypes_llama, together
from emoguard_llamacpp.door import Door
from emoguard_llamacpp.files import opens

CONTEXT = 4096
"""Tokens of prompt and answer together."""

TEMPLATE = "tokenizer.chat_template"


class LlamaSpeaker:
    """See `emoguard.runtime.speaker.Speaker` and `GroupSpeaker`; `model` is a `llama_cpp.Llama`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.options: Options = {}
        # Without a template in the file llama_cpp would fall back to the llama-2 format unasked.
        self.has_template = TEMPLATE in model.metadata

    @classmethod
    def load(cls, path: Path, threads: int | None) -> Self:
        """Open a GGUF file.

        Raises:
            EmoGuardError: it is something else.
            ValueError: llama.cpp cannot load it.

        """
        if not opens(path):
            raise EmoGuardError(
                f"llama.cpp reads a GGUF file, got {path}: give a GGUF file, or leave out --runtime"
            )
        model = llama_cpp.Llama(
            str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        return cls(model)

    @cached_property
    def door(self) -> Residuals:
        """The offline door into the model."""
        return Door(self.model)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt, in the chat template unless it is raw."""
        if prompt.raw or not self.has_template:
            return list(self.model.tokenize(prompt.plain.encode()))
        formatter = Jinja2ChatFormatter(
            self.model.metadata[TEMPLATE], eos_token="", bos_token="", stop_token_ids=[]
        )
        messages: Any = prompt.messages
        return list(self.model.tokenize(formatter(messages=messages).prompt.encode(), special=True))

    def answer(self, prompt: Prompt, tick: Callable[[], None]) -> str:
        """Answer as an application would, through the completion or the chat completion."""
        options = {
            "max_tokens": prompt.max_tokens,
            "temperature": prompt.temperature,
            "seed": prompt.seed,
            "stream": True,
        }
        if prompt.raw or not self.has_template:
            chunks = self.model.create_completion(prompt.plain, **options)
            parts = (chunk["choices"][0]["text"] for chunk in chunks)
        else:
            chunks = self.model.create_chat_completion(prompt.messages, **options)
            parts = (chunk["choices"][0]["delta"].get("content") for chunk in chunks)
        text = ""
        for part in parts:
            text += part or ""
            tick()
        return text

    def respond(self, prompt: Prompt) -> Generated:
        """Respond from an empty cache.

        A prefix found in the cache was computed in other batches: not quite the same.
        """
        prompt_ids = self.prompt_ids(prompt)
        self.model.reset()
        self.model.set_seed(prompt.seed)
        generated = self.model.generate(prompt_ids, temp=prompt.temperature)
        token_ids = []
        for token in islice(generated, prompt.max_tokens):
            if ctypes_llama.is_end(self.model, token):
                break
            token_ids.append(int(token))
        return Generated(prompt_ids, token_ids)

    @property
    def together(self) -> int:
        """Return how many answers are written at a time."""
        return together.ROWS

    def respond_together(self, prompts: Sequence[Prompt]) -> list[Generated]:
        """Respond, each from an empty cache and with its own seed.

        Long ones are fewer at a time: together they take no more memory than the context.
        """
        ids = [self.prompt_ids(prompt) for prompt in prompts]
        tokens, temperature = prompts[0].max_tokens, prompts[0].temperature
        written: dict[int, list[int]] = {}
        left = sorted(range(len(ids)), key=lambda n: len(ids[n]), reverse=True)
        while left:
            # The longest decides how many fit: a long prompt must not make short ones wait.
            size = together.rows_within(CONTEXT, len(ids[left[0]]) + tokens)
            part, left = left[:size], left[size:]
            answers = together.write(
                self.model,
                [ids[n] for n in part],
                [prompts[n].seed for n in part],
                tokens=tokens,
                temperature=temperature,
            )
            written.update(zip(part, answers, strict=True))
        return [Generated(before, written[n]) for n, before in enumerate(ids)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        text: bytes = self.model.detokenize(list(token_ids))
        return text.decode("utf-8", "replace")
