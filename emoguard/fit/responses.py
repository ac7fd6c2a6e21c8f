"""The model's own answers to neutral prompts, and the calibration measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.calibration import QUANTILES, Calibration
from emoguard.errors import EmoGuardError

if TYPE_CHECKING:
    from emoguard.probe import Probe
    from emoguard.protocols import Residuals

SHORTEST = 8
"""Answers of fewer tokens say nothing about a response mean and are left out."""


@dataclass(frozen=True)
class Answer:
    """One generated answer as token ids: what the model was given and what it said."""

    prompt_ids: list[int]
    token_ids: list[int]


def calibrate(
    door: Residuals,
    probe: Probe,
    answers: Sequence[Answer],
    *,
    context: dict[str, str] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Read `answers` through `door` and summarise the probe's projections on them.

    Rows are those of live generation: the t-th token's row is the residual it was chosen from. The
    same answers may be read by several runtimes or quantisations of one model, which makes their z
    comparable.

    Raises:
        EmoGuardError: fewer than 8 answers of at least 8 tokens.

    """
    projections, lengths, along = [], [], []
    for number, answer in enumerate(answers):
        if len(answer.token_ids) >= SHORTEST:
            ids = answer.prompt_ids + answer.token_ids[:-1]
            residuals = door.residuals(ids, probe.layers)[:, len(answer.prompt_ids) - 1 :]
            projections.append(probe.project(residuals))
            lengths.append(np.linalg.norm(residuals, axis=2))
            along.append(np.einsum("lth,lkh->ltk", residuals, probe.steer))
        progress(number + 1)
    if not projections:
        raise EmoGuardError(
            f"wanted answers of at least {SHORTEST} tokens, got none among {len(answers)}: "
            "give other prompts"
        )
    norms = np.median(np.concatenate(lengths, axis=1), axis=1)
    levels = np.linspace(0, 1, QUANTILES)
    limits = np.quantile(np.concatenate(along, axis=1), levels, axis=1).transpose(1, 0, 2)
    return Calibration.measure(door.identity, projections, norms, limits, context or {})


def llamacpp_answers(
    model: Any, prompts: Sequence[str], *, tokens: int = 64, temperature: float = 0.7
) -> Iterator[Answer]:
    """Let a `llama_cpp.Llama` answer each prompt, with its own chat template if it has one.

    The n-th answer is sampled with seed n.
    """
    import llama_cpp  # noqa: PLC0415  (only for a llama.cpp model)

    for seed, prompt in enumerate(prompts):
        prompt_ids = _llamacpp_prompt(model, prompt)
        model.set_seed(seed)
        generated = model.generate(prompt_ids, temp=temperature)
        token_ids = []
        for token in islice(generated, tokens):
            # Llama itself offers no such test.
            if llama_cpp.llama_vocab_is_eog(model._model.vocab, token):  # noqa: SLF001
                break
            token_ids.append(int(token))
        yield Answer(prompt_ids, token_ids)


def transformers_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    tokens: int = 64,
    temperature: float = 0.7,
) -> Iterator[Answer]:
    """Let a Transformers model answer each prompt; as `llamacpp_answers`."""
    import torch  # noqa: PLC0415  (only for a Transformers model)

    for seed, prompt in enumerate(prompts):
        inputs = _transformers_prompt(tokenizer, prompt).to(model.device)
        torch.manual_seed(seed)
        out = model.generate(
            **inputs, max_new_tokens=tokens, do_sample=temperature > 0, temperature=temperature
        )
        prompt_ids = inputs["input_ids"][0].tolist()
        token_ids = out[0, len(prompt_ids) :].tolist()
        if token_ids and token_ids[-1] in np.atleast_1d(model.generation_config.eos_token_id):
            token_ids.pop()
        yield Answer(prompt_ids, token_ids)


def first_half(text: str) -> str:
    """Return the first half of a text's words: what a model without chat template continues."""
    words = text.split()
    return " ".join(words[: max(4, len(words) // 2)])


def _llamacpp_prompt(model: Any, prompt: str) -> list[int]:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # noqa: PLC0415

    template = model.metadata.get("tokenizer.chat_template")
    if template is None:
        return list(model.tokenize(first_half(prompt).encode()))
    formatter = Jinja2ChatFormatter(template, eos_token="", bos_token="", stop_token_ids=[])
    text = formatter(messages=[{"role": "user", "content": prompt}]).prompt
    return list(model.tokenize(text.encode(), special=True))


def _transformers_prompt(tokenizer: Any, prompt: str) -> Any:
    if not tokenizer.chat_template:
        return tokenizer(first_half(prompt), return_tensors="pt")
    turns = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
