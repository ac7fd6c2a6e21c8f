"""The `emoguard` object in what llama-cpp-python returns, and the notices in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import emoguard_llamacpp
import llama_cpp
import pytest

import emoguard
from emoguard import Guard, Plan, Policy, Request
from emoguard.notices.policy import NoticePolicy
from emoguard.runtime.session import REQUEST
from emoguard.testing import ListSink, make_probe, measure_calibration
from tests.support import tiny_gguf

PROMPT = "the rain in the north and the cat"
CHAT = [{"role": "user", "content": "Are you human?"}]
OPTIONS: dict[str, Any] = {"max_tokens": 5, "temperature": 0.0}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_gguf.load(tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "m.gguf", "llama"))


@pytest.fixture
def watch(llm: Any) -> Iterator[Any]:
    policy = Policy(notices=NoticePolicy(profiles=("us_ut_452",)))
    with make_guard(llm, policy) as guard, emoguard.attach(llm, guard) as watch:
        yield watch


def make_guard(llm: Any, policy: Policy | None = None, sinks: Any = ()) -> Guard:
    door = emoguard_llamacpp.open_residuals(llm)
    probe = make_probe(door, ("happy", "sad", "calm"), (1, 2, 3))
    return Guard(probe, [measure_calibration(door, probe)], policy, sinks)


def answer(llm: Any, *, chat: bool, stream: bool, **options: Any) -> list[dict[str, Any]]:
    """Return the dicts that a call gives: one, or the chunks of a stream."""
    make = llm.create_chat_completion if chat else llm.create_completion
    got = make(CHAT if chat else PROMPT, stream=stream, **(OPTIONS | options))
    return list(got) if stream else [got]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_the_object_is_on_the_dict_that_ends_a_response(
    llm: Any, watch: Any, chat: bool, stream: bool
) -> None:
    *others, last = answer(llm, chat=chat, stream=stream)
    assert last["choices"][0]["finish_reason"]
    assert last["emoguard"] == watch.reports[-1].wire()
    assert last["emoguard"]["notice"]["text"]
    assert not [chunk for chunk in others if "emoguard" in chunk]
    assert json.loads(json.dumps(last["emoguard"], allow_nan=False)) == last["emoguard"]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_everything_but_the_object_is_unchanged(llm: Any, chat: bool, stream: bool) -> None:
    plain = answer(llm, chat=chat, stream=stream)
    llm.reset()
    with make_guard(llm) as guard, emoguard.attach(llm, guard):
        shown = answer(llm, chat=chat, stream=stream)
    last = shown[-1].pop("emoguard")
    assert last["notice"] is None
    for chunk in (*plain, *shown):
        chunk.pop("id")
        chunk.pop("created")
    assert shown == plain


def test_a_server_carries_the_object_itself(llm: Any, watch: Any) -> None:
    for chat in (False, True):
        for stream in (False, True):
            request = Request(carrier="server")
            token = REQUEST.set(request)
            try:
                chunks = answer(llm, chat=chat, stream=stream)
            finally:
                REQUEST.reset(token)
            assert not [chunk for chunk in chunks if "emoguard" in chunk]
            assert watch.reports[-1].id == request.id
            assert watch.reports[-1].notice.channel is None


def test_scores_are_in_the_object_when_they_are_asked_for(llm: Any, watch: Any) -> None:
    got = llm.create_completion(PROMPT, emoguard=Request(scores="tokens"), **OPTIONS)
    assert [token["id"] for token in got["emoguard"]["tokens"]] == [
        token.id for token in watch.reports[-1].tokens
    ]
    assert "scores" not in llm.create_completion(PROMPT, **OPTIONS)["emoguard"]


def test_the_last_word_of_the_user_is_looked_at_and_nothing_else(llm: Any, watch: Any) -> None:
    request = Request(conversation="c")
    reasons = []
    for content in ("Are you human?", [{"type": "text", "text": "are you a bot?"}], "Hello"):
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "I"}]
        got = llm.create_chat_completion(messages, emoguard=request, **OPTIONS)
        notice = got["emoguard"]["notice"]
        reasons.append(notice and notice["reasons"])
    assert reasons == [["start", "question"], ["question"], None]


def test_a_claim_in_the_text_is_found(llm: Any) -> None:
    text = list(llm.tokenize(b" I am so sad.", add_bos=False))

    def speak(ids: Any, scores: Any) -> Any:
        scores[:] = -1e9
        scores[text[len(ids) - start]] = 1e9
        return scores

    start = len(llm.tokenize(PROMPT.encode()))
    policy = Policy(notices=NoticePolicy(profiles=("us_wa_2225",)))
    with make_guard(llm, policy) as guard, emoguard.attach(llm, guard):
        got = llm.create_completion(
            PROMPT,
            max_tokens=len(text),
            temperature=0.0,
            logits_processor=llama_cpp.LogitsProcessorList([speak]),
        )
    assert got["choices"][0]["text"].strip() == "I am so sad."
    assert got["emoguard"]["notice"]["reasons"] == ["start", "claim"]


def test_a_steered_response_says_so_each_time_in_the_field_and_once_in_words(llm: Any) -> None:
    request = Request(conversation="c", plan=Plan(add={"happy": 0.1}))
    with make_guard(llm) as guard, emoguard.attach(llm, guard):
        first, second = (
            llm.create_completion(PROMPT, emoguard=request, **OPTIONS)["emoguard"] for _ in "ab"
        )
    assert first["steered"]
    assert first["notice"]["kind"] == second["notice"]["kind"] == "steered"
    assert first["notice"]["text"]
    assert not second["notice"]["text"]


def test_a_broken_off_stream_loses_its_notice_and_the_next_has_it(llm: Any) -> None:
    policy = Policy(notices=NoticePolicy(profiles=("eu_art50",)))
    sink, request = ListSink(), Request(conversation="c")
    with make_guard(llm, policy, [sink]) as guard, emoguard.attach(llm, guard):
        stream = llm.create_completion(PROMPT, stream=True, emoguard=request, **OPTIONS)
        next(stream)
        stream.close()
        got = [llm.create_completion(PROMPT, emoguard=request, **OPTIONS) for _ in range(2)]
        guard.flush()
    assert got[0]["emoguard"]["notice"]["reasons"] == ["start", "undelivered"]
    assert got[1]["emoguard"]["notice"] is None
    assert [report.notice and report.notice.channel for report in sink.reports] == [
        None,
        "field",
        None,
    ]
    assert sink.reports[0].notice is not None


def test_a_decoder_that_breaks_leaves_timers_and_the_response(llm: Any, watch: Any) -> None:
    wanted = answer(llm, chat=False, stream=False)[0]["choices"]
    watch.joint.decode = lambda ids: 1 / 0
    got = answer(llm, chat=False, stream=False)[0]
    assert got["choices"] == wanted
    assert got["emoguard"]["notice"]["reasons"] == ["start"]
    assert watch.reports[-1].faults == ("notices",)
    assert watch.reports[-1].status == "scored"
