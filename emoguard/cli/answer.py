"""Lets a model of any runtime answer a prompt, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emoguard.errors import EmoGuardError

Tick = Callable[[], None]


@dataclass(frozen=True)
class Prompt:
    """What is asked and how it is answered; `temperature` 0 is greedy.

    `raw` leaves the chat template out; models without one are always prompted raw.
    """

    text: str
    system: str = ""
    max_tokens: int = 200
    temperature: float = 0.7
    seed: int = 0
    raw: bool = False

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as chat templates take it."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        return [*turns, {"role": "user", "content": self.text}]

    @property
    def plain(self) -> str:
        """Return the text that a model without chat template continues."""
        return f"{self.system}\n\n{self.text}" if self.system else self.text


def answer(model: Any, tokenizer: Any, prompt: Prompt, tick: Tick) -> str:
    """Generate and return the answer; `tick` is called about once per token on the way.

    Raises:
        EmoGuardError: the runtime refuses the prompt (it is longer than the context, say).

    """
    try:
        if tokenizer is None:
            return _llama(model, prompt, tick)
        if type(model).__module__.startswith("vllm."):
            return _vllm(model, tokenizer, prompt, tick)
        return _transformers(model, tokenizer, prompt, tick)
    except ValueError as error:
        raise EmoGuardError(f"the model does not take this prompt: {error}") from error


def decoder(model: Any, tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Return the function from token ids to text without special tokens."""
    if tokenizer is None:
        return lambda ids: model.detokenize(list(ids)).decode("utf-8", "replace")
    return lambda ids: str(
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def _llama(model: Any, prompt: Prompt, tick: Tick) -> str:
    options = {
        "max_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "seed": prompt.seed,
        "stream": True,
    }
    # Without a template in the file llama_cpp would fall back to the llama-2 format unasked.
    if prompt.raw or "tokenizer.chat_template" not in model.metadata:
        chunks = model.create_completion(prompt.plain, **options)
        said = (chunk["choices"][0]["text"] for chunk in chunks)
    else:
        chunks = model.create_chat_completion(prompt.messages, **options)
        said = (chunk["choices"][0]["delta"].get("content") for chunk in chunks)
    text = ""
    for part in said:
        text += part or ""
        tick()
    return text


def _transformers(model: Any, tokenizer: Any, prompt: Prompt, tick: Tick) -> str:
    import torch

    if prompt.raw or not tokenizer.chat_template:
        inputs = tokenizer(prompt.plain, return_tensors="pt")
    else:
        inputs = tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    inputs = inputs.to(model.device)
    sampling = {"temperature": prompt.temperature} if prompt.temperature > 0 else {}
    torch.manual_seed(prompt.seed)
    out = model.generate(
        **inputs,
        max_new_tokens=prompt.max_tokens,
        do_sample=bool(sampling),
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        streamer=_Clock(tick),
        **sampling,
    )
    ids = out[0, inputs["input_ids"].shape[1] :].tolist()
    return decoder(model, tokenizer)(ids)


def _vllm(model: Any, tokenizer: Any, prompt: Prompt, tick: Tick) -> str:
    from vllm import SamplingParams

    if prompt.raw or not tokenizer.chat_template:
        ids = tokenizer.encode(prompt.plain)
    else:
        ids = tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
    sampling = SamplingParams(
        temperature=prompt.temperature, max_tokens=prompt.max_tokens, seed=prompt.seed
    )
    (output,) = model.generate([{"prompt_token_ids": list(ids)}], sampling, use_tqdm=False)
    for _ in output.outputs[0].token_ids:  # an LLM gives whole answers
        tick()
    return str(output.outputs[0].text)


class _Clock:
    """A streamer that only says that something came."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick

    def put(self, value: Any) -> None:
        self._tick()

    def end(self) -> None:
        """Do nothing: the report tells when the response is over."""
