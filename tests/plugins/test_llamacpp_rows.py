"""Which rows of a llama.cpp response count: attention sinks, and what opens reasoning."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emoguard_llamacpp
import llama_cpp
import numpy as np
import pytest
from emoguard_llamacpp import ctypes_llama

import emoguard
from emoguard import Guard, Plan, Policy, Request
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import make_probe, measure_calibration
from tests.support import tiny_gguf

TOKEN, OTHER = 100, 101
OPEN, CLOSE = tiny_gguf.THINKING
TOKENS = Request(scores="tokens")
PLAN = Plan(add={"happy": 0.3}, cap={"sad": 0.4})
PROMPTED = dataclasses.replace(PLAN, prompt=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "llama.gguf", "llama")


@pytest.fixture
def llm(path: Path) -> Any:
    return tiny_gguf.load(path)


@pytest.fixture(params=["native", "callback"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def guard_for(llm: Any) -> Guard:
    door = emoguard_llamacpp.open_residuals(llm)
    probe = make_probe(door, ("happy", "sad", "calm"))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    return Guard(probe, [measure_calibration(door, probe)], policy)


@pytest.fixture
def watch(llm: Any, backend: str) -> Iterator[Any]:
    with emoguard.attach(llm, guard_for(llm), backend=backend) as watch:
        yield watch


def say(llm: Any, prompt: list[int], tokens: list[int], **how: Any) -> None:
    """Generate `tokens`, whatever the model would say."""
    left = list(tokens)

    def choose(_ids: Any, scores: Any) -> Any:
        chosen = np.full_like(scores, -np.inf)
        chosen[left[0]] = 0
        return chosen

    processors = llama_cpp.LogitsProcessorList([choose])
    for token in llm.generate(prompt, temp=0.0, logits_processor=processors, **how):
        assert token == left.pop(0)
        if not left:
            break


def sinks(watch: Any) -> int:
    report = watch.reports[-1]
    assert report.status == "scored"
    assert report.tokens_scored == report.completion_tokens
    return int(report.attention_sinks)


@pytest.mark.parametrize(
    ("prompt", "tokens", "wanted"),
    [
        ([TOKEN], [OTHER] * 4, 1),
        ([1], [OTHER] * 4, 1),
        ([TOKEN] * 9, [OTHER] * 4, 1),
        ([TOKEN] * 3, [TOKEN, TOKEN, OTHER, TOKEN], 3),
        ([TOKEN, OTHER], [OTHER] * 4, 0),
    ],
)
def test_one_token_is_a_sink_as_long_as_it_is_repeated(
    llm: Any, watch: Any, prompt: list[int], tokens: list[int], wanted: int
) -> None:
    say(llm, prompt, tokens, emoguard=TOKENS)
    assert sinks(watch) == wanted
    rows = [token.z for token in watch.reports[-1].tokens[wanted:]]
    means = [score.mean for score in watch.reports[-1].scores.values()]
    assert np.allclose(means, np.mean(rows, axis=0), atol=1e-6)


def test_a_cached_prompt_is_the_same_sink(llm: Any, watch: Any) -> None:
    for _ in range(2):  # the second time its token is chosen without a decode
        say(llm, [TOKEN], [OTHER], emoguard=TOKENS)
        assert sinks(watch) == 1
    say(llm, [TOKEN, OTHER, OTHER], [OTHER])
    assert sinks(watch) == 0


def test_tokens_in_the_context_come_before_a_prompt(llm: Any, watch: Any) -> None:
    llm.reset()
    llm.eval([TOKEN, TOKEN])
    say(llm, [TOKEN], [TOKEN, OTHER, OTHER], reset=False)
    assert sinks(watch) == 2
    say(llm, [TOKEN], [OTHER], reset=False)
    assert sinks(watch) == 0


def test_a_completion_of_one_token_is_marked(llm: Any, watch: Any) -> None:
    llm.create_completion([TOKEN], max_tokens=5, temperature=0.0)
    assert sinks(watch) >= 1


# Steering.


def logits_after(llm: Any, prompt: list[int], plan: Plan | None, tokens: int = 1) -> np.ndarray:
    say(llm, prompt, [TOKEN] * tokens, emoguard=Request(plan=plan))
    return ctypes_llama.last_logits(llm, llm.ctx)


@pytest.mark.parametrize("plan", [PLAN, PROMPTED])
@pytest.mark.parametrize("batch", [512, 16])
def test_sinks_are_left_alone_in_every_pass(path: Path, plan: Plan, batch: int) -> None:
    llm = tiny_gguf.load(path, n_batch=batch, n_ubatch=8)
    with emoguard.attach(llm, guard_for(llm), backend="callback") as watch:
        for prompt in ([TOKEN], [TOKEN] * 40):
            for tokens in (1, 3):
                llm.reset()
                plain = logits_after(llm, prompt, None, tokens)
                llm.reset()
                assert np.array_equal(logits_after(llm, prompt, plan, tokens), plain)
                receipt = watch.reports[-1].receipt
                assert (receipt.applied, receipt.faulted, receipt.dose_max) == (0, 0, 0)
        mixed = [TOKEN] * 20 + [OTHER] + [TOKEN] * 20
        assert not np.array_equal(logits_after(llm, mixed, plan), logits_after(llm, mixed, None))
        say(llm, [TOKEN], [TOKEN, OTHER, TOKEN, TOKEN], emoguard=Request(plan=plan))
        assert watch.reports[-1].receipt.applied == 2


def test_a_steered_prompt_is_moved_behind_its_sink_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = tiny_gguf.load(path)
    written: dict[int, list[int]] = {}

    def writing(address: int, hidden: int, place: int, source: int) -> None:
        layer = int(ctypes_llama.tensor_name(address).rsplit(b"-", 1)[1])
        written.setdefault(layer, []).append(place)
        write(address, hidden, place, source)

    write = ctypes_llama.write_row
    monkeypatch.setattr(ctypes_llama, "write_row", writing)
    with emoguard.attach(llm, guard_for(llm), backend="callback"):
        say(llm, [TOKEN, TOKEN, OTHER, TOKEN], [OTHER], emoguard=Request(plan=PROMPTED))
    assert set(written) == {1, 2}
    assert all(places == [2, 3] for places in written.values())


# Reasoning.


def phases(watch: Any) -> dict[str, int]:
    return dict(watch.reports[-1].phases)


def template_of(end: str) -> str:
    body = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    return f"{{# <think>…</think> #}}{body}{{% if add_generation_prompt %}}{end}{{% endif %}}"


@pytest.fixture
def chatting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[Any, Any]]:
    """A watched model whose template ends prompts in the parameter."""
    monkeypatch.setattr(tiny_gguf, "TEMPLATE", template_of(request.param))
    llm = tiny_gguf.load(tiny_gguf.write(tmp_path / "chat.gguf", "qwen3"))
    with emoguard.attach(llm, guard_for(llm)) as watch:
        yield llm, watch


def chat(llm: Any, content: str, way: str = "call") -> None:
    arguments = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 6,
        "temperature": 0.0,
        "logit_bias": {2: -100.0, OPEN: -100.0, CLOSE: -100.0},
    }
    if way == "stream":
        list(llm.create_chat_completion(**arguments, stream=True))
    elif way == "class":  # as llama_cpp.server calls it
        list(llama_cpp.Llama.create_chat_completion(llm, **arguments, stream=True))
    else:
        llm.create_chat_completion(**arguments)


CONTENTS = ("I am sad", "I am sad <think>", "<think>", "what is <think> for?", "</think><think>\n")


@pytest.mark.parametrize("way", ["call", "stream", "class"])
@pytest.mark.parametrize("chatting", ["", "\n", "[assistant]", "<think></think>"], indirect=True)
def test_a_users_text_opens_no_reasoning(chatting: tuple[Any, Any], way: str) -> None:
    llm, watch = chatting
    for content in CONTENTS:
        chat(llm, content, way)
        assert watch.reports[-1].reasoning == "marked", content
        assert phases(watch)["reasoning"] == 0 < phases(watch)["response"], content


@pytest.mark.parametrize("chatting", ["[assistant]<think>", "<think>\n"], indirect=True)
def test_a_template_opens_reasoning_after_any_message(chatting: tuple[Any, Any]) -> None:
    llm, watch = chatting
    for content in (*CONTENTS, "</think>"):
        chat(llm, content)
        assert watch.reports[-1].reasoning == "unclosed", content


def test_a_caller_of_a_whole_prompt_may_end_it_in_reasoning(llm: Any, watch: Any) -> None:
    end = llm.tokenize(b"\n", add_bos=False)
    for prompt, inside in (
        ([1, TOKEN, OPEN], True),
        ([1, TOKEN, OPEN, *end], True),
        ([1, OPEN, TOKEN], False),
        ([1, TOKEN, OPEN, CLOSE], False),
    ):
        say(llm, prompt, [TOKEN] * 4)
        assert watch.reports[-1].reasoning == ("unclosed" if inside else "marked")


def test_the_model_opens_reasoning_before_its_answer_only(llm: Any, watch: Any) -> None:
    blank = llm.tokenize(b"\n", add_bos=False)
    say(llm, [1, TOKEN], [*blank, OPEN, TOKEN, CLOSE, TOKEN, OPEN, TOKEN])
    assert phases(watch) == {"preparation": 1, "reasoning": 3, "response": 3}
    say(llm, [1, TOKEN], [OTHER, OPEN, TOKEN, TOKEN])
    assert phases(watch) == {"preparation": 1, "reasoning": 0, "response": 3}


def test_detaching_gives_chats_back_their_handlers(llm: Any) -> None:
    before = llm._chat_handlers
    with emoguard.attach(llm, guard_for(llm)):
        assert llm._chat_handlers is not before
    assert llm._chat_handlers is before
