"""The model's own answers to neutral prompts, and the calibration measured on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.probe.calibration import QUANTILES, Calibration
from emoguard.probe.crossing import HYSTERESIS, WINDOW
from emoguard.runtime.attention import sink_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.probe import Probe
    from emoguard.probe.residuals import Residuals

SHORTEST = 8
"""Answers of fewer tokens say nothing about a response mean and are left out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated answer as token ids: what the model was given and what it said."""

    prompt_ids: list[int]
    token_ids: list[int]

    def residuals(self, door: Residuals, layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the residuals a report averages over, float32 (layers, rows, hidden).

        As in live generation each token's row is the residual it was chosen from, and rows read at
        an attention sink are left out.
        """
        start = len(self.prompt_ids) - 1 + sink_rows(self.prompt_ids, self.token_ids)
        return door.residuals(self.prompt_ids + self.token_ids[:-1], layers)[:, start:]


@dataclass(frozen=True)
class Sampling:
    """How answers are generated: what a calibration is bound to beside the model's own file."""

    tokens: int = 128
    """Most tokens of an answer."""
    temperature: float = 0.7
    """0 takes the likeliest token; the runtime's own defaults hold for everything else."""
    system: str = ""
    """System prompt, empty for none."""
    language: str = "en"
    """Of the prompts, as a BCP 47 tag; only told, never checked."""

    def context(self, template: str, prompts: Sequence[str]) -> dict[str, str]:
        """Return the context of a calibration: plain words, and SHA-256 of what is long.

        `template` is the chat template's own hash, empty without one.
        """
        return {
            "language": self.language,
            "prompts": _digest("\n".join(prompts)),
            "system": _digest(self.system) if self.system else "",
            "temperature": f"{self.temperature:g}",
            "template": template,
            "tokens": str(self.tokens),
        }


def calibrate(
    door: Residuals,
    probe: Probe,
    said: Sequence[Answer],
    *,
    context: dict[str, str] | None = None,
    window: int = WINDOW,
    hysteresis: float = HYSTERESIS,
    progress: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Read the answers through `door` and summarise the probe's projections on them.

    Rows are those that reports average over: see `Answer.residuals`. The same answers may be read
    by several runtimes or quantisations of one model, which makes their z comparable. `window` and
    `hysteresis` are those of the alarms to certify.

    Raises:
        EmoGuardError: fewer than 8 answers of at least 8 tokens.

    """
    projections, lengths, along = [], [], []
    for number, one in enumerate(said):
        if len(one.token_ids) - sink_rows(one.prompt_ids, one.token_ids) >= SHORTEST:
            residuals = one.residuals(door, probe.layers)
            projections.append(probe.project(residuals))
            lengths.append(np.linalg.norm(residuals, axis=2))
            along.append(np.einsum("lth,lkh->ltk", residuals, probe.steer))
        progress(number + 1)
    if not projections:
        raise EmoGuardError(
            f"wanted answers of at least {SHORTEST} tokens, got none among {len(said)}: "
            "give other prompts"
        )
    norms = np.median(np.concatenate(lengths, axis=1), axis=1)
    levels = np.linspace(0, 1, QUANTILES)
    limits = np.quantile(np.concatenate(along, axis=1), levels, axis=1).transpose(1, 0, 2)
    return Calibration.measure(
        door.identity,
        projections,
        norms,
        limits,
        context or {},
        window=window,
        hysteresis=hysteresis,
    )


def answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], sampling: Sampling, *, start: int = 0
) -> Iterator[Answer]:
    """Let a model answer prompts from number `start` on, the n-th with seed n; see `answer`."""
    for number in range(start, len(prompts)):
        yield answer(model, tokenizer, prompts[number], sampling, number)


def answer(model: Any, tokenizer: Any, prompt: str, sampling: Sampling, seed: int) -> Answer:
    """Let a model answer one prompt, with its chat template if it has one.

    What it says does not depend on what it said before. `tokenizer` is None for a
    `llama_cpp.Llama`, which brings its own.
    """
    if tokenizer is None:
        return _llamacpp_answer(model, prompt, sampling, seed)
    if type(model).__module__.startswith("vllm."):
        return _vllm_answer(model, tokenizer, prompt, sampling, seed)
    return _transformers_answer(model, tokenizer, prompt, sampling, seed)


def _llamacpp_answer(model: Any, prompt: str, sampling: Sampling, seed: int) -> Answer:
    import llama_cpp  # noqa: PLC0415  (only for a llama.cpp model)

    prompt_ids = _llamacpp_prompt(model, prompt, sampling.system)
    model.reset()  # a prefix found in the cache was computed in other batches: not quite the same
    model.set_seed(seed)
    generated = model.generate(prompt_ids, temp=sampling.temperature)
    token_ids = []
    for token in islice(generated, sampling.tokens):
        # Llama itself offers no such test.
        if llama_cpp.llama_vocab_is_eog(model._model.vocab, token):  # noqa: SLF001
            break
        token_ids.append(int(token))
    return Answer(prompt_ids, token_ids)


def _transformers_answer(
    model: Any, tokenizer: Any, prompt: str, sampling: Sampling, seed: int
) -> Answer:
    import torch  # noqa: PLC0415  (only for a Transformers model)

    inputs = _transformers_prompt(tokenizer, prompt, sampling.system).to(model.device)
    torch.manual_seed(seed)
    chosen: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        chosen = {"do_sample": True, "temperature": sampling.temperature}
    out = model.generate(**inputs, max_new_tokens=sampling.tokens, **chosen)
    prompt_ids = inputs["input_ids"][0].tolist()
    token_ids = out[0, len(prompt_ids) :].tolist()
    if token_ids and token_ids[-1] in np.atleast_1d(model.generation_config.eos_token_id):
        token_ids.pop()
    return Answer(prompt_ids, token_ids)


def _vllm_answer(model: Any, tokenizer: Any, prompt: str, sampling: Sampling, seed: int) -> Answer:
    from vllm import SamplingParams  # noqa: PLC0415  (only for an engine of vLLM)

    prompt_ids = _prompt_ids(tokenizer, prompt, sampling.system)
    (output,) = model.generate(
        [{"prompt_token_ids": prompt_ids}],
        SamplingParams(temperature=sampling.temperature, max_tokens=sampling.tokens, seed=seed),
        use_tqdm=False,
    )
    choice = output.outputs[0]
    token_ids = list(choice.token_ids)
    if choice.finish_reason == "stop" and token_ids:
        token_ids.pop()
    return Answer(prompt_ids, token_ids)


def _prompt_ids(tokenizer: Any, prompt: str, system: str) -> list[int]:
    if not tokenizer.chat_template:
        return list(tokenizer.encode(first_half(prompt)))
    ids = tokenizer.apply_chat_template(
        _turns(prompt, system), add_generation_prompt=True, return_dict=True
    )
    return list(ids["input_ids"])


def first_half(text: str) -> str:
    """Return the first half of a text's words: what a model without chat template continues."""
    words = text.split()
    return " ".join(words[: max(4, len(words) // 2)])


def _llamacpp_prompt(model: Any, prompt: str, system: str) -> list[int]:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # noqa: PLC0415

    template = model.metadata.get("tokenizer.chat_template")
    if template is None:
        return list(model.tokenize(first_half(prompt).encode()))
    formatter = Jinja2ChatFormatter(template, eos_token="", bos_token="", stop_token_ids=[])
    messages: Any = _turns(prompt, system)
    text = formatter(messages=messages).prompt
    return list(model.tokenize(text.encode(), special=True))


def _transformers_prompt(tokenizer: Any, prompt: str, system: str) -> Any:
    if not tokenizer.chat_template:
        return tokenizer(first_half(prompt), return_tensors="pt")
    return tokenizer.apply_chat_template(
        _turns(prompt, system), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


def _turns(prompt: str, system: str) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
