"""`emoguard=` in calls of an engine: one request for all prompts, or one for each."""

from __future__ import annotations

from typing import Any

import pytest
from emoguard_vllm.callrequests import CallRequests

from emoguard.errors import EmoGuardError
from emoguard.records import Request

A, B, C = (Request(name) for name in "abc")
HELLO = [{"role": "user", "content": "Hello"}]


class Engine:
    """Asks for the request of each prompt, as vLLM's offline calls do."""

    llm_engine = None

    def __init__(self) -> None:
        self.requests = CallRequests(self)

    def generate(self, prompts: Any, count: int) -> list[Any]:
        return [self.requests.next() for _ in range(count)]

    def chat(self, messages: Any, count: int) -> list[Any]:
        return [self.requests.next() for _ in range(count)]


@pytest.mark.parametrize(
    ("call", "prompts", "count"),
    [
        ("generate", "one", 1),
        ("generate", {"prompt_token_ids": [1, 2, 3]}, 1),
        ("generate", [5, 6, 7], 1),
        ("generate", ["one", "two"], 2),
        ("generate", [[5, 6], [7]], 2),
        ("generate", [{"prompt": "one"}, {"prompt": "two"}], 2),
        ("chat", HELLO, 1),
        ("chat", [HELLO, HELLO], 2),
    ],
)
def test_there_is_a_request_for_each_prompt_or_the_call_is_refused(
    call: str, prompts: Any, count: int
) -> None:
    engine = Engine()
    with engine.requests.wrapped():
        ask = getattr(engine, call)
        assert ask(prompts, count, emoguard=A) == [A] * count
        assert ask(prompts, count, emoguard=[A, B][:count]) == [A, B][:count]
        assert ask(prompts, count) == [None] * count
        for wrong in ([A, B, C], []):
            words = f"one Request or one for each of {count} prompts, got {len(wrong)}"
            with pytest.raises(EmoGuardError, match=words):
                ask(prompts, count, emoguard=wrong)


def test_prompts_may_be_named() -> None:
    engine = Engine()
    with engine.requests.wrapped():
        assert engine.generate(count=2, prompts=["one", "two"], emoguard=[A, B]) == [A, B]
        with pytest.raises(EmoGuardError, match="each of 2 prompts, got 1"):
            engine.generate(count=2, prompts=["one", "two"], emoguard=[A])
