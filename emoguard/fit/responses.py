"""The model's own answers to neutral prompts, and the calibration measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.calibration import Calibration
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe import Probe
from emoguard.records import Request
from emoguard.registry import attach, find

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.protocols import Residuals

NORM_RESPONSES = 32
"""Responses re-read for the reference norms."""


def calibrate(
    model: Any,
    probe: Probe,
    prompts: Sequence[str],
    *,
    tokenizer: Any = None,
    tokens: int = 64,
    temperature: float = 0.7,
    progress: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Let the model answer `prompts` and summarise the raw projections of its answers.

    The answers are read by the same live hook that will watch the model. Models without a chat
    template continue the first half of each prompt instead.

    Raises:
        EmoGuardError: fewer than 8 usable answers (an answer of under 8 tokens is left out).

    """
    options = {} if tokenizer is None else {"tokenizer": tokenizer}
    answer = _llamacpp_answers if tokenizer is None else _transformers_answers
    door = find(model)[0].open_residuals(model, **options)
    projections, answers = [], []
    with Guard(probe) as guard, attach(model, guard, **options) as watch:
        for number, text in enumerate(answer(model, tokenizer, prompts, tokens, temperature)):
            report = watch.reports[-1]
            if report.status != "uncalibrated":
                raise EmoGuardError(f"calibration stopped: {report.status}: {report.detail}")
            if report.tokens_scored >= 8:
                projections.append(np.array([t.z for t in report.tokens], np.float32))
                answers.append(text)
            progress(number + 1)
    context = {
        "prompts": f"{len(prompts)} neutral",
        "tokens": str(tokens),
        "temperature": str(temperature),
        "system": "",
    }
    norms = reference_norms(door, probe, answers[:NORM_RESPONSES])
    return Calibration.measure(door.identity, projections, norms, context)


def reference_norms(door: Residuals, probe: Probe, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the median residual length at each probed layer, (layers,); first 4 tokens left out.

    The first tokens are left out because the norm of the very first is far from typical.
    """
    lengths = [
        np.linalg.norm(door.residuals(door.tokenize(text), probe.layers)[:, 4:], axis=2)
        for text in texts
        if len(door.tokenize(text)) > 5
    ]
    if not lengths:
        raise EmoGuardError("reference norms need at least one answer of more than 5 tokens")
    return np.median(np.concatenate(lengths, axis=1), axis=1).astype(np.float32)


def first_half(text: str) -> str:
    """Return the first half of a text's words: what a model without chat template continues."""
    words = text.split()
    return " ".join(words[: max(4, len(words) // 2)])


def _llamacpp_answers(
    model: Any, _: None, prompts: Sequence[str], tokens: int, temperature: float
) -> Iterator[str]:
    chat = "tokenizer.chat_template" in model.metadata
    for seed, prompt in enumerate(prompts):
        how = {
            "max_tokens": tokens,
            "temperature": temperature,
            "seed": seed,
            "emoguard": Request(scores="tokens"),
        }
        if chat:
            reply = model.create_chat_completion([{"role": "user", "content": prompt}], **how)
            yield reply["choices"][0]["message"]["content"]
        else:
            yield model.create_completion(first_half(prompt), **how)["choices"][0]["text"]


def _transformers_answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int, temperature: float
) -> Iterator[str]:
    import torch  # noqa: PLC0415  (only for a Transformers model)

    for seed, prompt in enumerate(prompts):
        text = first_half(prompt)
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # A chat template writes its own BOS.
        inputs = tokenizer(
            text, return_tensors="pt", add_special_tokens=not tokenizer.chat_template
        ).to(model.device)
        torch.manual_seed(seed)
        out = model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=temperature > 0,
            temperature=temperature,
            emoguard=Request(scores="tokens"),
        )
        yield tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
