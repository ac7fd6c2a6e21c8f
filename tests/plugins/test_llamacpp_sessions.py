"""Sessions on a `llama_cpp.Llama`: one report per response, one fresh row per counted token."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import emoguard_llamacpp
import llama_cpp
import numpy as np
import pytest

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.records import Report, Request
from emoguard.runtime.session import REQUEST
from emoguard.testing import ListSink, make_probe
from tests.support import tiny_gguf

PROMPT = "the rain in the north and the cat"
END = 2
"""The end-of-sequence token of the tiny vocabulary."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "llama.gguf", "llama")


@pytest.fixture(params=["native", "callback"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def llm(path: Path) -> Any:
    return tiny_gguf.load(path)


def make_guard(llm: Any, **options: Any) -> Guard:
    door = emoguard_llamacpp.open_residuals(llm)
    return Guard(make_probe(door, ("happy", "sad", "calm"), (1, 2, 3)), **options)


@pytest.fixture
def watch(llm: Any, backend: str) -> Iterator[Any]:
    with emoguard.attach(llm, make_guard(llm), backend=backend) as watch:
        yield watch


def complete(llm: Any, prompt: Any = PROMPT, **options: Any) -> Any:
    settings = {"max_tokens": 9, "temperature": 0.0, "seed": 3}
    return llm.create_completion(prompt, **(settings | options))


def offline(llm: Any, watch: Any, prompt: list[int], report: Report) -> np.ndarray:
    """Return the projections of the residuals the report's tokens were chosen from."""
    ids = prompt + [token.id for token in report.tokens][:-1]
    residuals = emoguard_llamacpp.open_residuals(llm).residuals(ids, (1, 2, 3))
    return watch.guard.probe.project(residuals)[len(prompt) - 1 :]


def assert_rows_are_right(llm: Any, watch: Any, prompt: list[int]) -> None:
    report = watch.reports[-1]
    live = np.array([token.z for token in report.tokens], np.float64)
    wanted = offline(llm, watch, prompt, report)
    assert np.allclose(live, wanted, atol=0.02 * np.abs(wanted).max()), (live, wanted)


def tokens_of(llm: Any, text: str = PROMPT) -> list[int]:
    return list(llm.tokenize(text.encode(), add_bos=True, special=True))


def test_completion_tokens_equal_the_runtimes_own_count(llm: Any, watch: Any) -> None:
    usage = complete(llm)["usage"]
    report = watch.reports[-1]
    assert report.tokens_scored == report.completion_tokens == usage["completion_tokens"] == 9
    assert (report.finish, report.status) == ("length", "uncalibrated")


def test_the_end_token_is_not_counted_in_a_completion(llm: Any, watch: Any) -> None:
    def end_after_four(ids: Any, scores: Any) -> Any:
        scores[END] = 1e9 if len(ids) >= len(tokens_of(llm)) + 4 else -1e9
        return scores

    processors = llama_cpp.LogitsProcessorList([end_after_four])
    usage = complete(llm, logits_processor=processors)["usage"]
    report = watch.reports[-1]
    assert report.completion_tokens == report.tokens_scored == usage["completion_tokens"] == 4
    assert report.finish == "stop"


def test_the_end_token_is_counted_where_generate_yields_it(llm: Any, watch: Any) -> None:
    def end(ids: Any, scores: Any) -> Any:
        scores[END] = 1e9
        return scores

    processors = llama_cpp.LogitsProcessorList([end])
    for token in llm.generate(tokens_of(llm), temp=0.0, logits_processor=processors):
        assert token == END
        break
    assert watch.reports[-1].completion_tokens == 1
    assert watch.reports[-1].finish == "stop"


def test_a_stop_string_finishes_with_stop(llm: Any, watch: Any) -> None:
    text = complete(llm)["choices"][0]["text"]
    usage = complete(llm, stop=[text[3:5]])["usage"]
    report = watch.reports[-1]
    assert report.finish == "stop"
    assert report.completion_tokens == report.tokens_scored == usage["completion_tokens"]


def test_a_stream_is_reported_before_its_last_chunk(llm: Any, watch: Any) -> None:
    request = Request(scores="tokens")
    reported = []
    for chunk in complete(llm, stream=True, emoguard=request):
        reported.append(len(watch.reports))
        finish = chunk["choices"][0]["finish_reason"]
    assert finish == "length"
    assert reported[-1] == 1
    assert not any(reported[:3])
    assert watch.reports[-1].id == request.id
    assert_rows_are_right(llm, watch, tokens_of(llm))


def test_a_closed_stream_is_cancelled_and_keeps_its_readings(llm: Any, watch: Any) -> None:
    stream = complete(llm, stream=True)
    next(stream)
    live = watch.live()
    assert live is not None
    assert len(live.rows) == len(live.token_ids) > 0
    stream.close()
    report = watch.reports[-1]
    assert report.status == report.finish == "cancelled"
    assert report.scores
    assert watch.live() is None


def test_a_stream_that_never_started_leaves_no_report(llm: Any, watch: Any) -> None:
    complete(llm, stream=True).close()
    assert not watch.reports
    assert watch.live() is None


def test_a_new_generation_closes_the_open_one_as_cancelled(llm: Any, watch: Any) -> None:
    first = llm.generate(tokens_of(llm), temp=0.0)
    next(first)
    complete(llm)
    assert [report.status for report in watch.reports] == ["cancelled", "uncalibrated"]
    first.close()
    assert len(watch.reports) == 2


def test_generate_that_its_caller_ends_is_scored(llm: Any, watch: Any) -> None:
    tokens = llm.generate(tokens_of(llm), temp=0.0)
    for _ in range(5):
        next(tokens)
    tokens.close()
    report = watch.reports[-1]
    assert (report.status, report.finish, report.tokens_scored) == ("uncalibrated", "unknown", 5)


def test_a_prompt_may_be_any_iterable(llm: Any, watch: Any) -> None:
    prompt = tokens_of(llm)
    first, second = (next(llm.generate(tokens, temp=0.0)) for tokens in (prompt, iter(prompt)))
    assert first == second
    assert [report.tokens_scored for report in watch.reports] == [1, 1]


def test_looking_live_does_not_change_the_numbers(llm: Any, watch: Any) -> None:
    reports = []
    for look in (False, True):
        llm.reset()
        for _chunk in complete(llm, stream=True, emoguard=Request(scores="tokens")):
            if look and (reading := watch.live()) is not None:
                assert np.isfinite(reading.rows).all()
        reports.append(watch.reports[-1].tokens)
    assert reports[0] == reports[1]


def test_stopping_criteria_finish_with_stop(llm: Any, watch: Any) -> None:
    prompt = tokens_of(llm)
    criteria = llama_cpp.StoppingCriteriaList([lambda ids, _: len(ids) >= len(prompt) + 4])
    ids = list(llm.generate(prompt, temp=0.0, stopping_criteria=criteria))
    report = watch.reports[-1]
    assert report.completion_tokens == report.tokens_scored == len(ids) > 0
    assert report.finish == "stop"


def test_requests_reach_chats_and_their_streams(llm: Any, watch: Any) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    for stream in (False, True):
        request = Request(conversation="c")
        answer = llm.create_chat_completion(
            messages, max_tokens=5, temperature=0.0, stream=stream, emoguard=request
        )
        if stream:
            complete_before = [len(watch.reports) for _ in answer]
            assert complete_before[-1] == 2
        assert (watch.reports[-1].id, watch.reports[-1].conversation) == (request.id, "c")


def test_class_functions_are_watched_and_take_the_context_request(llm: Any, watch: Any) -> None:
    request = Request()
    token = REQUEST.set(request)
    try:
        stream = llama_cpp.Llama.create_completion(llm, PROMPT, max_tokens=3, stream=True)
    finally:
        REQUEST.reset(token)
    *_, last = stream
    assert last["choices"][0]["finish_reason"] == watch.reports[-1].finish == "length"
    llama_cpp.Llama.create_chat_completion(
        llm, [{"role": "user", "content": "hi"}], max_tokens=3, temperature=0.0
    )
    assert watch.reports[-1].completion_tokens == 3


@pytest.mark.parametrize(
    "request_", [{}, True, "tokens", [Request()]], ids=["dict", "bool", "str", "list"]
)
def test_a_request_of_another_type_is_refused(llm: Any, watch: Any, request_: Any) -> None:
    for call in (complete, lambda llm, **options: llm(PROMPT, **options)):
        with pytest.raises(TypeError, match=r"takes an emoguard\.Request, got "):
            call(llm, emoguard=request_)
    assert not watch.reports


def test_a_context_request_of_another_type_is_refused(llm: Any, watch: Any) -> None:
    token = REQUEST.set("tokens")  # type: ignore[arg-type]
    try:
        with pytest.raises(TypeError, match=r"REQUEST holds an emoguard\.Request, got "):
            complete(llm)
    finally:
        REQUEST.reset(token)
    assert not watch.reports


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_called_itself_takes_a_request(
    llm: Any, watch: Any, *, stream: bool
) -> None:
    request = Request(id=17, conversation="c", scores="tokens")  # type: ignore[arg-type]
    answer = llm(PROMPT, max_tokens=5, temperature=0.0, stream=stream, emoguard=request)
    last = list(answer)[-1] if stream else answer
    report = watch.reports[-1]
    assert (report.id, report.conversation, len(report.tokens)) == ("17", "c", 5)
    assert last["emoguard"] == report.wire("tokens")
    assert len(watch.reports) == 1
    assert type(llm).__name__ == "Llama"
    assert isinstance(llm, llama_cpp.Llama)


def test_after_a_detach_a_model_is_called_as_before(llm: Any) -> None:
    before = llm(PROMPT, max_tokens=4, temperature=0.0)["choices"]
    with emoguard.attach(llm, make_guard(llm)):
        held = llm.__call__
    assert type(llm) is llama_cpp.Llama
    for call in (llm, held):
        llm.reset()
        assert call(PROMPT, max_tokens=4, temperature=0.0)["choices"] == before


def test_a_cached_prompt_gets_its_row_again(llm: Any, watch: Any) -> None:
    prompt = tokens_of(llm)
    for max_tokens in (1, 1, 6, 6):
        complete(llm, prompt, max_tokens=max_tokens, emoguard=Request(scores="tokens"))
        assert watch.reports[-1].tokens_scored == max_tokens
        assert_rows_are_right(llm, watch, prompt)


def test_a_prompt_evaluated_by_hand_gets_its_row(llm: Any, watch: Any) -> None:
    prompt = tokens_of(llm)
    llm.reset()
    llm.eval(prompt)
    complete(llm, prompt, emoguard=Request(scores="tokens"))
    assert_rows_are_right(llm, watch, prompt)


def test_a_longer_conversation_reuses_its_prefix(llm: Any, watch: Any) -> None:
    prompt = tokens_of(llm)
    complete(llm, prompt)
    longer = [*prompt, *(int(t) for t in llm.input_ids[len(prompt) : len(prompt) + 5]), 90, 91]
    complete(llm, longer, emoguard=Request(scores="tokens"))
    assert watch.reports[-1].tokens_scored == 9
    assert_rows_are_right(llm, watch, longer)


def test_the_prompt_cache_object_works(llm: Any, watch: Any) -> None:
    llm.set_cache(llama_cpp.LlamaRAMCache())
    prompt, other = tokens_of(llm), tokens_of(llm, "something else")
    for tokens in (prompt, other, prompt, [*prompt, 90]):
        complete(llm, tokens, emoguard=Request(scores="tokens"))
        assert watch.reports[-1].tokens_scored == 9
        assert_rows_are_right(llm, watch, tokens)


def test_prompts_longer_than_a_batch_are_read_in_their_last_chunk(path: Path, backend: str) -> None:
    llm = tiny_gguf.load(path, n_batch=8, n_ubatch=4)
    prompt = tokens_of(llm, PROMPT * 2 + "hat")
    assert len(prompt) % 8 not in (0, 1)
    with emoguard.attach(llm, make_guard(llm), backend=backend) as watch:
        for tokens in (prompt, prompt[: len(prompt) // 8 * 8]):
            llm.reset()
            complete(llm, tokens, emoguard=Request(scores="tokens"))
            assert_rows_are_right(llm, watch, tokens)


def test_logits_of_all_tokens_may_be_asked_for(path: Path, backend: str) -> None:
    llm = tiny_gguf.load(path, logits_all=True)
    wanted = complete(llm, logprobs=2)["choices"]
    with emoguard.attach(llm, make_guard(llm), backend=backend) as watch:
        assert complete(llm, logprobs=2, emoguard=Request(scores="tokens"))["choices"] == wanted
        assert_rows_are_right(llm, watch, tokens_of(llm))


def test_sampling_gives_the_same_ids_as_without_a_watch(llm: Any, backend: str) -> None:
    settings = {"temperature": 1.5, "max_tokens": 30, "seed": 11}
    wanted = complete(llm, **settings)["choices"][0]["text"]
    with emoguard.attach(llm, make_guard(llm), backend=backend):
        assert complete(llm, **settings)["choices"][0]["text"] == wanted
    assert complete(llm, **settings)["choices"][0]["text"] == wanted


def test_a_prompt_over_the_context_raises_llama_cpps_error(llm: Any, watch: Any) -> None:
    with pytest.raises(ValueError, match="exceed context window"):
        complete(llm, [5] * 600)
    assert watch.live() is None
    assert not watch.reports
    with pytest.raises((ValueError, RuntimeError)):
        next(llm.generate([5] * 600))
    assert watch.live() is None
    assert watch.reports[-1].finish == "error"
    complete(llm)
    assert watch.reports[-1].status == "uncalibrated"


def test_an_empty_prompt_is_refused_in_words(llm: Any, watch: Any) -> None:
    with pytest.raises(EmoGuardError, match="the prompt is empty"):
        complete(llm, [])
    assert watch.live() is None
    complete(llm, "", max_tokens=4)
    assert watch.reports[-1].status == "uncalibrated"


def test_generation_in_a_thread_is_read(llm: Any, watch: Any) -> None:
    thread = threading.Thread(target=complete, args=(llm,))
    thread.start()
    thread.join()
    assert watch.reports[-1].tokens_scored == 9


def test_reports_are_bounded_and_reach_sinks(llm: Any, backend: str) -> None:
    sink = ListSink()
    with (
        make_guard(llm, sinks=[sink]) as guard,
        emoguard.attach(llm, guard, backend=backend) as watch,
    ):
        for _ in range(3):
            complete(llm, max_tokens=2)
        guard.flush()
        assert [report.id for report in sink.reports] == [report.id for report in watch.reports]


class Paused:
    """A logits processor that stays in its generation until it is let go on."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __call__(self, _ids: Any, scores: Any) -> Any:
        self.entered.set()
        assert self.go_on.wait(60)
        return scores


def test_a_second_thread_is_refused_and_the_first_goes_on(llm: Any, watch: Any) -> None:
    wanted = complete(llm, max_tokens=4)["choices"][0]["text"]
    paused, texts = Paused(), []

    def first() -> None:
        processors = llama_cpp.LogitsProcessorList([paused])
        texts.append(complete(llm, max_tokens=4, logits_processor=processors)["choices"][0]["text"])

    thread = threading.Thread(target=first)
    thread.start()
    assert paused.entered.wait(60)
    for call in (
        lambda: complete(llm, max_tokens=4),
        lambda: list(complete(llm, max_tokens=4, stream=True)),
        lambda: llm.eval([1, 5]),
        lambda: next(llm.generate([1, 5])),
    ):
        with pytest.raises(EmoGuardError, match=r"hold emoguard_llamacpp\.lock\(llm\)"):
            call()
    paused.go_on.set()
    thread.join()
    assert texts == [wanted]
    assert [report.status for report in watch.reports] == ["uncalibrated"] * 2
    assert complete(llm, max_tokens=4)["choices"][0]["text"] == wanted


def test_threads_that_hold_the_lock_generate_one_after_the_other(llm: Any, watch: Any) -> None:
    wanted = complete(llm)["choices"][0]["text"]
    texts = []

    def generate() -> None:
        for _ in range(3):
            with emoguard_llamacpp.lock(llm):
                chunks = complete(llm, stream=True)
                texts.append("".join(chunk["choices"][0]["text"] for chunk in chunks))

    threads = [threading.Thread(target=generate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [wanted] * 12
    assert len(watch.reports) == 13


def test_the_server_waits_for_a_thread_that_holds_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="needs llama_cpp.server: the extra serve brings it")
    from emoguard_llamacpp import server
    from starlette.testclient import TestClient

    served = server.open_app(*server.read_model(str(path), n_ctx=64, n_threads=1))
    held = emoguard_llamacpp.lock(served.model)
    waited: list[bool] = []

    async def wait(_seconds: float) -> None:
        waited.append(held.locked())
        held.release()

    monkeypatch.setattr(server, "asyncio", SimpleNamespace(sleep=wait))
    client = TestClient(served.app)
    for _ in range(2):
        held.acquire()
        answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
        assert answer.status_code == 200
        assert not held.locked()
    assert waited == [True, True]
    served.model.close()


def test_every_model_has_one_lock_and_a_copy_its_own(llm: Any) -> None:
    lock = emoguard_llamacpp.lock(llm)
    assert emoguard_llamacpp.lock(llm) is lock
    other = pickle.loads(pickle.dumps(llm))
    assert emoguard_llamacpp.lock(other) is not lock
    other.close()


def test_thinking_tokens_are_told_apart(llm: Any, watch: Any) -> None:
    opening = llm.tokenize(b"<think>", add_bos=False, special=True)
    usage = complete(llm, tokens_of(llm) + opening)["usage"]
    report = watch.reports[-1]
    assert report.reasoning == "unclosed"
    assert report.phases["response"] == usage["completion_tokens"] - 1 > 0


def test_detaching_in_mid_stream_leaves_the_response_as_it_was(llm: Any, backend: str) -> None:
    wanted = complete(llm, max_tokens=20)["choices"][0]["text"]
    llm.reset()
    watch = emoguard.attach(llm, make_guard(llm), backend=backend)
    stream = complete(llm, max_tokens=20, stream=True)
    text = next(stream)["choices"][0]["text"]
    watch.detach()
    text += "".join(chunk["choices"][0]["text"] for chunk in stream)
    assert text == wanted
    assert [report.status for report in watch.reports] == ["cancelled"]
    assert complete(llm, max_tokens=20)["choices"][0]["text"] == wanted


HARDLY = 0.3
"""Seconds in which a thread that waits for nobody would be through."""


def test_detaching_waits_for_the_pass_of_another_thread(llm: Any, backend: str) -> None:
    wanted = complete(llm, max_tokens=20)["choices"][0]["text"]
    llm.reset()
    watch = emoguard.attach(llm, make_guard(llm), backend=backend)
    detaching, waited, context = threading.Thread(target=watch.detach), [], llm.ctx

    def detach(_ids: Any, scores: Any) -> Any:
        if not waited:
            detaching.start()
            detaching.join(HARDLY)
            waited.append(detaching.is_alive() and llm.ctx == context)
        return scores

    processors = llama_cpp.LogitsProcessorList([detach])
    text = complete(llm, max_tokens=20, logits_processor=processors)["choices"][0]["text"]
    detaching.join()
    assert (waited, text) == ([True], wanted)
    assert [report.status for report in watch.reports] == ["cancelled"]
    assert complete(llm, max_tokens=20)["choices"][0]["text"] == wanted


@pytest.mark.parametrize("how", ["a stream", "a new call", "an evaluation"])
def test_a_thread_that_generates_while_another_detaches_waits(
    llm: Any, backend: str, how: str
) -> None:
    wanted = complete(llm, max_tokens=20)["choices"][0]["text"]
    llm.reset()
    watch = emoguard.attach(llm, make_guard(llm), backend=backend)
    stream = complete(llm, max_tokens=20, stream=True)
    parts = [next(stream)] if how == "a stream" else []

    def generate() -> None:
        if how == "an evaluation":
            llm.eval([1, 5])
            llm.reset()
        parts.extend(stream)

    reader, generating, waited = watch.joint.head.reader, threading.Thread(target=generate), []
    plain = reader.stop

    def stop(**options: Any) -> None:
        generating.start()
        generating.join(HARDLY)
        waited.append(generating.is_alive())
        plain(**options)

    reader.stop = stop
    watch.detach()
    generating.join()
    text = "".join(part["choices"][0]["text"] for part in parts)
    assert (waited, text) == ([True], wanted)
    assert len(watch.reports) == (how == "a stream")
    assert watch.live() is None


def test_two_models_are_watched_side_by_side(path: Path, backend: str) -> None:
    one, two = tiny_gguf.load(path), tiny_gguf.load(path)
    guard = make_guard(one)
    with (
        emoguard.attach(one, guard, backend=backend) as first,
        emoguard.attach(two, guard, backend=backend) as second,
    ):
        streams = [complete(llm, stream=True) for llm in (one, two)]
        for _pair in zip(*streams, strict=True):
            pass
        assert first.reports[-1].scores == second.reports[-1].scores
