"""Prompts, and what is asked of an engine with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoguard.records import Report, Request

TOPICS = (
    "My dog died today.",
    "Tell me a joke about cats.",
    "What is the capital of France?",
    "I won the lottery!",
    "Why is the sky blue? Explain in detail.",
    "I am so angry at my boss.",
    "Write a haiku.",
    "I feel calm by the sea.",
    "List three fruits.",
    "Count to ten.",
)
NEAR = 1e-3
"""How far z may lie from Transformers': sums are taken in another order."""

SAD = {"add": {"sad": 0.08}}
CALM = {"add": {"calm": 0.06}, "cap": {"angry": 0.5, "hostile": 0.5}}


def prompts(tokenizer: Any, long: bool = True) -> list[list[int]]:
    """Return ten chats as token ids, of some thirty to six hundred tokens."""
    found = []
    for number, topic in enumerate(TOPICS):
        notes = [f"Note {n}: the ferry leaves at nine." for n in range(8 + 5 * number)]
        text = " ".join([topic, *notes]) if long and number % 3 == 0 else topic
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        found.append(list(ids["input_ids"]))
    return found


def ask(llm: Any, prompts: Any, requests: Any = None, **sampling: Any) -> list[Any]:
    """Generate for all prompts together; `requests` are one for each, or None."""
    from vllm import SamplingParams

    options = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True} | sampling
    given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    own = [Request(scores="tokens") for _ in prompts] if requests is None else requests
    return list(llm.generate(given, SamplingParams(**options), use_tqdm=False, emoguard=own))


def rows(report: Report) -> NDArray[np.float32]:
    """Return a report's z, (tokens, labels)."""
    return np.array([token.z for token in report.tokens], np.float32)


def plans(*plans: Any) -> list[Request]:
    """Return requests with these plans."""
    return [Request(scores="tokens", plan=plan) for plan in plans]


def preemptions(llm: Any) -> int:
    """Return how often a request was preempted in this engine."""
    counters = [each for each in llm.get_metrics() if each.name == "vllm:num_preemptions"]
    assert counters
    return sum(each.value for each in counters)
