"""Steering in llama.cpp: exact, bounded, and never the prefix of another turn."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import emoguard_llamacpp
import llama_cpp
import numpy as np
import pytest
from emoguard_llamacpp import ctypes_llama

import emoguard
from emoguard import EmoGuardError, Guard, Plan, Policy, Request
from emoguard.policy.reload import PolicyFile
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering import bound as reference
from emoguard.steering import moves
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import AlarmingGuard, make_probe, measure_calibration
from tests.support import tiny_gguf
from tests.support.interrupts import LateError, then

PROMPT = "the rain in the north and the cat"
LABELS = ("happy", "sad", "calm")
STRONG = Plan(add={"happy": 0.4})
MIXED = Plan(add={"happy": 0.2, "sad": -0.1}, cap={"calm": 0.3}, floor={"sad": 0.2})
PROMPTED = dataclasses.replace(STRONG, prompt=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "llama.gguf", "llama")


@pytest.fixture
def llm(path: Path) -> Any:
    return tiny_gguf.load(path)


def guard_for(llm: Any, layers: tuple[int, ...] = (1, 2), **steering: Any) -> Guard:
    door = emoguard_llamacpp.open_residuals(llm)
    probe = make_probe(door, LABELS, layers)
    policy = Policy(steering=SteeringPolicy(**({"max_dose_ratio": 0.4} | steering)))
    return Guard(probe, [measure_calibration(door, probe)], policy)


@pytest.fixture
def guard(llm: Any) -> Guard:
    return guard_for(llm)


@pytest.fixture
def watch(llm: Any, guard: Guard) -> Iterator[Any]:
    with emoguard.attach(llm, guard) as watch:
        yield watch


def complete(llm: Any, prompt: Any = PROMPT, plan: Plan | None = None, **options: Any) -> Any:
    settings = {"max_tokens": 9, "temperature": 0.0, "seed": 3} | options
    request = Request(plan=plan, scores="tokens")
    return llm.create_completion(prompt, emoguard=request, **settings)


def text_of(llm: Any, prompt: Any = PROMPT, plan: Plan | None = None, **options: Any) -> str:
    return str(complete(llm, prompt, plan, **options)["choices"][0]["text"])


def logits_after(llm: Any, ids: list[int], plan: Plan | None = None) -> np.ndarray:
    """Logits after the prompt `ids`, through generate."""
    next(llm.generate(ids, temp=0.0, emoguard=Request(plan=plan)))
    return ctypes_llama.last_logits(llm, llm.ctx)


def ids_of(llm: Any, text: str = PROMPT) -> list[int]:
    return list(llm.tokenize(text.encode(), add_bos=True, special=True))


def z_of(report: Any) -> np.ndarray:
    return np.array([token.z for token in report.tokens])


# Exactness.


def test_every_live_token_is_moved_by_the_reference_within_the_bound(
    llm: Any, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, np.ndarray, np.ndarray]] = []

    def recording(address: int, hidden: int, place: int, source: int) -> None:
        before = ctypes_llama.tensor_rows(address, hidden)[[place]]
        write(address, hidden, place, source)
        layer = int(ctypes_llama.tensor_name(address).rsplit(b"-", 1)[1])
        seen.append((layer, before, ctypes_llama.tensor_rows(address, hidden)[[place]]))

    write = ctypes_llama.write_row
    monkeypatch.setattr(ctypes_llama, "write_row", recording)
    complete(llm, plan=MIXED, max_tokens=20)
    receipt = watch.reports[-1].receipt
    result = watch.guard.site(watch.identity).steering(MIXED)
    by_layer = {each.layer: each for each in result.interventions}
    assert receipt.applied == watch.reports[-1].completion_tokens >= 20
    assert len(seen) > receipt.applied
    for layer, before, after in seen:
        assert np.array_equal(after, reference.intervene(before, by_layer[layer]).h)
        change = np.linalg.norm(after.astype(np.float64) - before.astype(np.float64), axis=1)
        length = np.linalg.norm(before.astype(np.float64), axis=1)
        assert np.all(change <= by_layer[layer].budget * length)


def test_a_zero_plan_is_bit_identical_to_none(llm: Any, watch: Any) -> None:
    ids = ids_of(llm)
    plain = logits_after(llm, ids)
    llm.reset()
    zero = logits_after(llm, ids, Plan(add={"happy": 0.0}))
    assert np.array_equal(zero, plain)
    llm.reset()
    assert not np.array_equal(logits_after(llm, ids, STRONG), plain)


def control_vector(llm: Any, guard: Guard, plan: Plan) -> np.ndarray:
    """What `plan` adds, as the buffer of llama.cpp's own control vector: it starts at layer 1."""
    hidden = guard.probe.hidden
    buffer = np.zeros((tiny_gguf.BLOCKS - 1, hidden), np.float32)
    for each in guard.site(guard.calibrations[0].identity).steering(plan).interventions:
        buffer[each.layer - 1] = each.shift
    return buffer


def test_an_added_dose_equals_llama_cpps_own_control_vector(path: Path) -> None:
    llm = tiny_gguf.load(path)
    guard = guard_for(llm, max_dose_ratio=0.5)
    ids, plan = ids_of(llm), Plan(add={"happy": 0.02, "sad": -0.01}, prompt=True)
    plain = logits_after_plain(llm, ids)
    buffer = control_vector(llm, guard, plan)
    pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    hidden = guard.probe.hidden
    llm.reset()
    llm.eval(ids[:1])  # an attention sink, which steering leaves alone
    assert not llama_cpp.llama_set_adapter_cvec(
        llm.ctx, pointer, buffer.size, hidden, 1, tiny_gguf.BLOCKS - 1
    )
    llm.eval(ids[1:])
    wanted = ctypes_llama.last_logits(llm, llm.ctx)
    assert not llama_cpp.llama_set_adapter_cvec(llm.ctx, None, 0, hidden, 1, 1)
    with emoguard.attach(llm, guard, backend="callback") as watch:
        logits = logits_after(llm, ids, plan)
        assert watch.reports[-1].receipt.clipped == 0
    assert np.abs(wanted - plain).max() > 0.01
    assert np.array_equal(logits, wanted)


def logits_after_plain(llm: Any, ids: list[int]) -> np.ndarray:
    llm.reset()
    llm.eval(ids)
    return ctypes_llama.last_logits(llm, llm.ctx)


def test_long_prompts_are_steered_only_at_their_last_token(path: Path) -> None:
    text = PROMPT * 12
    results = []
    for batch in (512, 64, 32):
        llm = tiny_gguf.load(path, n_batch=batch, n_ubatch=32)
        ids = ids_of(llm, text)
        assert len(ids) > 128
        with emoguard.attach(llm, guard_for(llm)) as watch:
            logits = logits_after(llm, ids, STRONG)
            assert watch.reports[-1].receipt.applied == 1
            whole = logits_after(llm, ids, PROMPTED)
            assert not np.allclose(whole, logits, atol=1e-2)
            assert not np.allclose(logits_after(llm, ids), logits, atol=1e-2)
        results.append((logits, whole))
    for logits, whole in results[1:]:
        assert np.allclose(logits, results[0][0], atol=2e-3)
        assert np.allclose(whole, results[0][1], atol=2e-3)


def test_a_layers_reading_is_of_before_its_own_intervention(llm: Any, watch: Any) -> None:
    complete(llm, max_tokens=1)
    plain = watch.reports[-1].tokens[0].z
    complete(llm, max_tokens=1, plan=dataclasses.replace(STRONG, layers=(2,)))
    assert np.allclose(watch.reports[-1].tokens[0].z, plain, atol=1e-3)
    complete(llm, max_tokens=1, plan=dataclasses.replace(STRONG, layers=(1,)))
    assert not np.allclose(watch.reports[-1].tokens[0].z, plain, atol=1e-2)


# What llama-cpp-python looks at after a response, or goes on from.


def chat(llm: Any, plan: Plan | None, **options: Any) -> Any:
    """Return (text, finish reason) of a chat."""
    settings = {"max_tokens": 9, "temperature": 0.0, "seed": 3} | options
    turns: Any = [{"role": "user", "content": PROMPT}]
    completion = llm.create_chat_completion(turns, emoguard=Request(plan=plan), **settings)
    chunks = list(completion) if options.get("stream") else [completion]
    return said(chunks), chunks[-1]["choices"][0]["finish_reason"]


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("plan", [STRONG, PROMPTED], ids=str)
def test_a_steered_chat_is_answered(
    llm: Any, watch: Any, plan: Plan, stream: bool, tokens: int
) -> None:
    _, finish = chat(llm, plan, stream=stream, max_tokens=tokens, logit_bias={2: -100})
    report = watch.reports[-1]
    assert finish == report.finish == "length"
    # llama-cpp-python goes on to the end of a character.
    assert report.receipt.applied == report.completion_tokens >= tokens
    prompt = ids_of(llm)[1:]  # this template adds no mark of its own
    assert llm.n_tokens == (0 if plan.prompt else len(prompt) - 1)


def test_a_standing_plan_for_prompts_is_applied_to_every_turn_of_a_chat(path: Path) -> None:
    llm, fresh = tiny_gguf.load(path), tiny_gguf.load(path)
    turns: Any = [{"role": "user", "content": PROMPT}]
    with (
        emoguard.attach(llm, guard_for(llm, plan=PROMPTED)) as watch,
        emoguard.attach(fresh, guard_for(fresh, plan=PROMPTED)),
    ):
        for more in ("and then", "and at last"):
            completion = llm.create_chat_completion(turns, max_tokens=9, temperature=0.0)
            assert watch.reports[-1].receipt.plan["prompt"] is True
            fresh.reset()
            wanted = fresh.create_chat_completion(turns, max_tokens=9, temperature=0.0)
            assert said([completion]) == said([wanted])
            turns += [completion["choices"][0]["message"], {"role": "user", "content": more}]


def test_a_chat_longer_than_a_batch_may_be_steered_in_its_prompt(path: Path) -> None:
    texts = []
    for batch in (512, 8):
        llm = tiny_gguf.load(path, n_batch=batch, n_ubatch=8)
        with emoguard.attach(llm, guard_for(llm)) as watch:
            texts.append(chat(llm, PROMPTED))
            assert watch.reports[-1].receipt.applied == watch.reports[-1].completion_tokens
    assert texts[0] == texts[1]


@pytest.mark.parametrize("plan", [None, STRONG, PROMPTED], ids=str)
def test_stopping_criteria_see_the_whole_response(llm: Any, watch: Any, plan: Plan | None) -> None:
    seen: list[tuple[list[int], float]] = []

    def look(ids: Any, scores: Any) -> bool:
        seen.append((ids.tolist(), scores.shape[-1]))
        return False

    criteria = llama_cpp.StoppingCriteriaList([look])
    complete(llm, plan=plan, stopping_criteria=criteria, logit_bias={2: -100})
    tokens = [token.id for token in watch.reports[-1].tokens]
    # At the end once more: all that was computed, the last token was not.
    assert seen[-1] == (ids_of(llm) + tokens[:-1], llm.n_vocab())


@pytest.mark.parametrize("how", [{}, {"echo": True}, {"stream": True}], ids=str)
@pytest.mark.parametrize("plan", [None, STRONG, PROMPTED], ids=str)
def test_there_is_a_log_probability_for_every_token(
    path: Path, plan: Plan | None, how: dict[str, bool]
) -> None:
    llm = tiny_gguf.load(path, logits_all=True)
    with emoguard.attach(llm, guard_for(llm)) as watch:
        completion = complete(llm, plan=plan, logprobs=2, logit_bias={1: -100, 2: -100}, **how)
        kept = [
            each["choices"][0]["logprobs"]
            for each in (completion if "stream" in how else [completion])
        ]
        prompt = len(ids_of(llm)) - 1 if "echo" in how else 0
        tokens = watch.reports[-1].completion_tokens
    assert sum(len(each["token_logprobs"]) for each in kept if each) == prompt + tokens


@pytest.mark.parametrize("plan", [STRONG, PROMPTED], ids=str)
def test_a_generation_that_continues_from_the_cache_keeps_it(path: Path, plan: Plan) -> None:
    llm, fresh = tiny_gguf.load(path), tiny_gguf.load(path)
    ids, more = ids_of(llm), [90, 91, 92]
    with emoguard.attach(llm, guard_for(llm), backend="callback") as watch:
        llm.eval(ids)
        next(llm.generate(more, temp=0.0, reset=False, emoguard=Request(plan=plan)))
        logits = ctypes_llama.last_logits(llm, llm.ctx)
        assert watch.reports[-1].receipt.applied == 1
    fresh.eval(ids)
    with emoguard.attach(fresh, guard_for(fresh), backend="callback"):
        whole = logits_after(fresh, [*ids, *more], dataclasses.replace(plan, prompt=False))
        other = logits_after(fresh, more, plan)
    if not plan.prompt:  # else only what was added is steered: nothing gives that in one go
        assert np.allclose(logits, whole, atol=2e-3)
    assert not np.allclose(logits, other, atol=1e-2)


def test_the_first_plan_does_not_drop_a_cache_that_is_gone_on_from(llm: Any, watch: Any) -> None:
    llm.eval(ids_of(llm))
    for arguments in ({"reset": False}, {}):
        positional = () if arguments else (40, 0.95, 0.05, 1.0, 0.0, 1.0, False)
        with pytest.raises(EmoGuardError, match='backend="callback"'):
            llm.generate([90, 91], *positional, **arguments, emoguard=Request(plan=STRONG))
    assert llm.n_tokens == len(ids_of(llm))
    assert watch.joint.head.reader.name == "native"


class MediaHandler:
    """Does as llama-cpp-python's handlers of images: evaluates the prompt, and completes that."""

    mtmd_ctx = None

    def __call__(self, *, llama: Any, messages: Any, **_: Any) -> Any:
        llama.reset()
        llama.eval(ids_of(llama, messages[-1]["content"]))
        llama.input_ids[1:5] = 7  # an image: whatever stood there
        prompt = llama.input_ids[: llama.n_tokens].tolist()
        return llama.create_completion(prompt, max_tokens=9, temperature=0.0, seed=3)


def test_images_in_a_chat_are_not_computed_again_from_ids(path: Path) -> None:
    llm = tiny_gguf.load(path)
    llm.chat_handler = MediaHandler()
    with emoguard.attach(llm, guard_for(llm)) as watch:
        with pytest.raises(EmoGuardError, match='backend="callback"'):
            chat(llm, STRONG)
        assert watch.joint.head.reader.name == "native"
    with emoguard.attach(llm, guard_for(llm), backend="callback") as watch:
        with pytest.raises(EmoGuardError, match="prompt: true"):
            chat(llm, PROMPTED)
        turns: Any = [{"role": "user", "content": PROMPT}]
        completion = llm.create_chat_completion(turns, emoguard=Request(plan=STRONG))
        assert completion["choices"][0]["text"] == text_of(llm, plan=STRONG)
        assert watch.reports[-2].receipt.applied == watch.reports[-2].completion_tokens


@pytest.mark.parametrize("plan", [STRONG, PROMPTED], ids=str)
def test_a_steered_prompt_over_the_context_breaks_nothing(llm: Any, watch: Any, plan: Plan) -> None:
    wanted = text_of(llm)
    with pytest.raises((ValueError, RuntimeError)):
        next(llm.generate([90] * 600, temp=0.0, emoguard=Request(plan=plan)))
    assert text_of(llm) == wanted
    assert text_of(llm, plan=plan) != wanted


# Interrupts.


@pytest.mark.parametrize("plan", [MIXED, PROMPTED], ids=str)
def test_an_interrupt_while_a_row_is_moved_ends_the_response(
    path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = tiny_gguf.load(path)
    with emoguard.attach(llm, guard_for(llm), backend="callback") as watch:
        wanted, steered = text_of(llm), text_of(llm, plan=plan)
        with monkeypatch.context() as patch:
            mover = moves.Mover
            patch.setattr(mover, "__call__", then(mover.__call__, LateError))
            with pytest.raises(LateError):
                complete(llm, plan=plan)
        report = watch.reports[-1]
        assert (report.status, report.finish, report.faults) == ("cancelled", "cancelled", ())
        assert text_of(llm) == wanted
        assert text_of(llm, plan=plan) == steered


# The rule of the cache.


@pytest.mark.parametrize("plan", [STRONG, MIXED, PROMPTED], ids=str)
def test_a_second_turn_equals_one_after_an_unsteered_first(path: Path, plan: Plan) -> None:
    llm, fresh = tiny_gguf.load(path), tiny_gguf.load(path)
    with emoguard.attach(llm, guard_for(llm)) as watch:
        answer = text_of(llm, plan=plan)
        assert watch.reports[-1].receipt.applied == watch.reports[-1].completion_tokens
        second = ids_of(llm, PROMPT + answer + " and then")
        logits = logits_after(llm, second)
        again = logits_after(llm, second, plan)
        assert np.allclose(logits_after(llm, second), logits, atol=1e-3)
        assert not np.allclose(again, logits, atol=1e-2)
    assert np.allclose(logits, logits_after_plain(fresh, second), atol=1e-3)


def test_the_unsteered_part_of_the_prompt_is_reused(
    llm: Any, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[int] = []
    decode = llama_cpp.llama_decode
    monkeypatch.setattr(
        llama_cpp._internals.llama_cpp,
        "llama_decode",
        lambda ctx, batch: (evaluated.append(batch.n_tokens), decode(ctx, batch))[1],
    )
    whole = len(ids_of(llm))
    with emoguard.attach(llm, guard, backend="callback"):
        for plan, wanted in (
            (STRONG, whole),
            (STRONG, 1),  # the last prompt token, under steering again
            (None, 1),
            (PROMPTED, whole),  # because the prompt itself is to be steered
            (None, whole),
        ):
            evaluated.clear()
            complete(llm, plan=plan, max_tokens=3)
            assert evaluated[0] == wanted


def test_a_prompt_in_the_cache_is_steered_all_the_same(llm: Any, watch: Any) -> None:
    wanted = logits_after(llm, ids_of(llm), STRONG)
    llm.reset()
    logits_after(llm, ids_of(llm))
    llm.n_tokens = len(ids_of(llm))  # exactly the prompt: llama-cpp-python would not decode at all
    assert np.allclose(logits_after(llm, ids_of(llm), STRONG), wanted, atol=1e-3)
    assert watch.reports[-1].receipt.applied == 1


@pytest.mark.parametrize("plan", [STRONG, PROMPTED], ids=str)
def test_llamas_cache_keeps_only_the_unsteered_part_of_a_response(path: Path, plan: Plan) -> None:
    llm, fresh = tiny_gguf.load(path), tiny_gguf.load(path)
    llm.set_cache(llama_cpp.LlamaRAMCache())
    with emoguard.attach(llm, guard_for(llm)):
        for stream in (False, True):
            completion = complete(llm, plan=plan, stream=stream)
            chunks = list(completion) if stream else [completion]
            text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
            complete(llm, "something else altogether", max_tokens=2)
            second = PROMPT + text + " and then"
            answer = text_of(llm, second, max_tokens=12)
            assert answer == text_of_plain(fresh, second)


def text_of_plain(llm: Any, prompt: str) -> str:
    completion = llm.create_completion(prompt, max_tokens=12, temperature=0.0, seed=3)
    return str(completion["choices"][0]["text"])


@pytest.mark.parametrize("plan", [STRONG, PROMPTED], ids=str)
def test_a_state_saved_under_steering_is_loaded_without_it(
    llm: Any, watch: Any, plan: Plan
) -> None:
    tokens = llm.generate(ids_of(llm), temp=0.0, emoguard=Request(plan=plan))
    list(islice(tokens, 4))
    state = llm.save_state()
    tokens.close()
    assert state.n_tokens == (0 if plan.prompt else len(ids_of(llm)) - 1)
    llm.load_state(state)
    second = ids_of(llm, PROMPT + " and")
    logits = logits_after(llm, second)
    llm.reset()
    assert np.allclose(logits, logits_after(llm, second), atol=1e-3)


@pytest.mark.parametrize("how", ["closed", "replaced", "detached"])
def test_a_steered_stream_that_is_broken_off_leaves_no_steered_position(
    path: Path, how: str
) -> None:
    llm = tiny_gguf.load(path)
    watch = emoguard.attach(llm, guard_for(llm))
    stream = complete(llm, plan=STRONG, stream=True, max_tokens=30)
    text = "".join(chunk["choices"][0]["text"] for chunk in islice(stream, 5))
    if how == "closed":
        stream.close()
    second = ids_of(llm, PROMPT + text)
    if how == "replaced":
        logits = logits_after(llm, second)
    watch.detach()
    if how != "replaced":
        next(llm.generate(second, temp=0.0))
        logits = ctypes_llama.last_logits(llm, llm.ctx)
    assert watch.reports[0].finish == "cancelled"
    assert watch.reports[0].receipt.applied >= 1
    assert np.allclose(logits, logits_after_plain(tiny_gguf.load(path), second), atol=1e-3)


@pytest.mark.parametrize("how", ["detached", "abandoned"])
def test_a_steered_stream_goes_on_where_it_was_when_its_watch_leaves_it(
    path: Path, how: str
) -> None:
    llm = tiny_gguf.load(path)
    watch = emoguard.attach(llm, guard_for(llm))
    tokens = llm.generate(ids_of(llm, PROMPT), temp=0.0, emoguard=Request(id="r", plan=STRONG))
    text, seen = list(islice(tokens, 5)), []
    watch.detach() if how == "detached" else watch.abandon("r")
    for token in islice(tokens, 10):
        seen.append((llm.n_tokens, int(llm.input_ids[llm.n_tokens - 1])))
        text.append(token)
    start = len(ids_of(llm, PROMPT))
    assert seen == [(start + n, text[n - 1]) for n in range(5, 15)]
    tokens.close()
    watch.detach()
    again = ids_of(llm, PROMPT) + text
    next(llm.generate(again, temp=0.0))
    logits = ctypes_llama.last_logits(llm, llm.ctx)
    assert np.allclose(logits, logits_after_plain(tiny_gguf.load(path), again), atol=1e-3)


def test_a_prompt_that_ends_before_the_steered_part_is_computed_again(llm: Any, watch: Any) -> None:
    longer = ids_of(llm, PROMPT)
    plain = list(islice(llm.generate(longer[:-1], temp=0.0), 6))
    llm.reset()
    steered = logits_after(llm, longer, STRONG)
    actual = list(islice(llm.generate(longer[:-1], temp=0.0), 6))
    assert watch.reports[-1].receipt is None
    assert actual == plain
    assert not np.allclose(steered, logits_after_plain(llm, longer), atol=1e-3)


@pytest.mark.parametrize("whole", [True, False])
def test_a_response_abandoned_in_the_decode_of_its_prompt_leaves_no_steered_position(
    path: Path, whole: bool
) -> None:
    llm = tiny_gguf.load(path)
    plan = Plan(add=STRONG.add, prompt=whole)
    with emoguard.attach(llm, guard_for(llm), backend="callback") as watch:
        decode, left = llm._ctx.decode, []

        def abandoning(batch: Any) -> None:
            decode(batch)
            if not left:  # the model ran; llama-cpp-python has not yet counted the tokens
                left.append(watch.abandon("r"))

        llm._ctx.decode = abandoning
        tokens = llm.generate(ids_of(llm), temp=0.0, emoguard=Request(id="r", plan=plan))
        list(islice(tokens, 3))
        tokens.close()
        llm._ctx.decode = decode
        again = ids_of(llm, PROMPT + " and the hat")
        logits = logits_after(llm, again)
    assert watch.reports[0].finish == "cancelled"
    assert np.allclose(logits, logits_after_plain(tiny_gguf.load(path), again), atol=1e-3)


# Which read path.


def test_a_native_watch_changes_to_the_callback_with_the_first_plan(llm: Any, watch: Any) -> None:
    assert watch.joint.head.reader.name == "native"
    plain = text_of(llm)
    rows = z_of(watch.reports[-1])
    complete(llm, plan=STRONG)
    assert watch.joint.head.reader.name == "callback"
    assert watch.reports[-1].backend == "llama_cpp:callback"
    assert text_of(llm) == plain
    assert np.allclose(z_of(watch.reports[-1]), rows, atol=1e-3)
    before = dict(vars(llm))
    watch.detach()
    assert before.keys() - vars(llm).keys()
    assert text_of_plain(llm, PROMPT)[: len(plain)] == plain


def test_asked_for_by_name_the_native_read_refuses_to_steer(llm: Any, guard: Guard) -> None:
    with emoguard.attach(llm, guard, backend="native") as watch:
        with pytest.raises(EmoGuardError, match="native read cannot steer"):
            complete(llm, plan=STRONG)
        with pytest.raises(EmoGuardError, match="native read cannot steer"), watch.steering(STRONG):
            pytest.fail("entered")
        complete(llm)
        assert watch.reports[-1].status == "scored"


def test_a_plan_may_be_a_mapping_and_anything_else_is_named(llm: Any, watch: Any) -> None:
    plan = {"add": {"happy": 0.2}}
    watch.check_plan(plan)
    with watch.steering(plan):
        complete(llm)
    assert watch.reports[-1].receipt.plan == plan
    complete(llm, plan=plan)
    assert watch.reports[-1].receipt.plan == plan
    for call in (watch.check_plan, watch.steering):
        with pytest.raises(EmoGuardError, match="plan: ad: unknown; did you mean add"):
            call({"ad": {"happy": 0.2}})
        with pytest.raises(EmoGuardError, match="plan: wanted a mapping"):
            call("happy")


def test_blocks_that_overlap_leave_no_plan_behind(llm: Any, watch: Any) -> None:
    first, second = watch.steering(Plan(add={"happy": 0.2})), watch.steering(Plan(add={"sad": 0.1}))
    first.__enter__()
    second.__enter__()
    complete(llm)
    assert watch.reports[-1].receipt.plan == {"add": {"happy": 0.2, "sad": 0.1}}
    first.__exit__(None, None, None)
    complete(llm)
    assert watch.reports[-1].receipt.plan == {"add": {"sad": 0.1}}
    second.__exit__(None, None, None)
    complete(llm)
    assert watch.reports[-1].receipt is None


def test_a_control_vector_set_by_hand_is_not_lost_to_the_change(llm: Any, guard: Guard) -> None:
    buffer = np.full((tiny_gguf.BLOCKS - 1, guard.probe.hidden), 0.5, np.float32)
    pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    with emoguard.attach(llm, guard) as watch:
        llama_cpp.llama_set_adapter_cvec(
            llm.ctx, pointer, buffer.size, guard.probe.hidden, 1, tiny_gguf.BLOCKS - 1
        )
        before = text_of(llm)
        with pytest.raises(EmoGuardError, match="control vector"):
            complete(llm, plan=STRONG)
        assert text_of(llm) == before
        assert watch.joint.head.reader.name == "native"


def test_layer_0_is_refused_by_name(llm: Any) -> None:
    guard = guard_for(llm, (0, 1))
    with emoguard.attach(llm, guard) as watch:
        with pytest.raises(EmoGuardError, match="cannot steer layer 0"):
            complete(llm, plan=STRONG)
        complete(llm, plan=dataclasses.replace(STRONG, layers=(1,)))
        assert watch.reports[-1].receipt.layers == (1,)


@pytest.mark.parametrize("how", ["native", "layer 0", "uncalibrated"])
def test_a_policy_that_this_watch_cannot_serve_is_refused_when_it_is_read_again(
    llm: Any, path: Path, tmp_path: Path, how: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("steering: {max_dose_ratio: 0.4}")
    result = guard_for(llm, (0, 1) if how == "layer 0" else (1, 2))
    calibrations = result.calibrations
    if how == "uncalibrated":
        another = dataclasses.replace(calibrations[0].identity, quantisation="Q2_K")
        calibrations = (dataclasses.replace(calibrations[0], identity=another),)
    guard = Guard(result.probe, calibrations, PolicyFile(policy))
    backend = "native" if how == "native" else "auto"
    with emoguard.attach(llm, guard, backend=backend):
        policy.write_text("steering: {max_dose_ratio: 0.4, plan: {cap: {happy: 0.9}}}")
        complete(llm)
        assert not guard.policy_file.successful
        assert guard.policy.steering.plan.is_empty
    policy.write_text("steering: {max_dose_ratio: 0.4, plan: {cap: {happy: 0.8}}}")
    guard.refresh()
    assert guard.policy_file.successful  # nobody watches any more whom it could not serve


# Refusals and faults.


def test_a_plan_that_cannot_be_is_refused_before_the_model_runs(llm: Any, watch: Any) -> None:
    for wrong in (
        Plan(add={"happy": 1e30}),
        Plan(add={"joy": 0.1}),
        dataclasses.replace(STRONG, probe="other"),
        dataclasses.replace(STRONG, layers=(4,)),
    ):
        with pytest.raises(EmoGuardError):
            complete(llm, plan=wrong)
        with pytest.raises(EmoGuardError):
            list(complete(llm, plan=wrong, stream=True))
    assert not watch.reports
    assert llm.n_tokens == 0
    complete(llm)
    assert watch.reports[-1].status == "scored"


def test_a_standing_plan_is_applied_to_chats_and_cannot_be_loosened(llm: Any) -> None:
    guard = guard_for(llm, plan=Plan(cap={"sad": 0.5}))
    turns = [{"role": "user", "content": PROMPT}]
    with emoguard.attach(llm, guard) as watch:
        llm.create_chat_completion(turns, max_tokens=5)
        assert watch.reports[-1].receipt.plan == {"cap": {"sad": 0.5}}
        request = Request(plan=Plan(cap={"sad": 1.0}, add={"calm": 0.1}))
        list(llm.create_chat_completion(turns, max_tokens=5, stream=True, emoguard=request))
        assert watch.reports[-1].receipt.plan == {"add": {"calm": 0.1}, "cap": {"sad": 0.5}}


@pytest.mark.parametrize("on_fault", ["unsteered", "stop"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_in_the_middle_leaves_the_rest_unsteered_or_ends_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, on_fault: str, stream: bool
) -> None:
    llm = tiny_gguf.load(path)
    guard = guard_for(llm, on_fault=on_fault)
    calls: list[int] = []
    plain = moves.Mover.__call__

    def third_token_broken(self: Any, h: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # two layers per token
            raise RuntimeError("injected")
        return plain(self, h)

    monkeypatch.setattr(moves.Mover, "__call__", third_token_broken)
    with emoguard.attach(llm, guard) as watch:
        completion = complete(llm, plan=STRONG, stream=stream)
        list(completion) if stream else None
        report = watch.reports[-1]
    assert report.faults == ("steering",)
    assert "injected" in report.detail
    assert report.receipt.applied == 2
    assert report.receipt.faulted == report.completion_tokens - 2
    if on_fault == "stop":
        assert (report.finish, report.completion_tokens) == ("halted", 3)
    else:
        assert report.finish == "length"
        assert report.completion_tokens >= 9
    assert report.status == "scored"


def test_a_residual_that_is_not_finite_is_left_alone_and_counted(
    llm: Any, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = text_of(llm)
    plain_call = moves.Mover.__call__
    broken = lambda self, h: plain_call(self, np.full_like(h, np.nan))  # noqa: E731
    monkeypatch.setattr(moves.Mover, "__call__", broken)
    assert text_of(llm, plan=STRONG) == plain
    receipt = watch.reports[-1].receipt
    wanted = (0, watch.reports[-1].completion_tokens, 0)
    assert (receipt.applied, receipt.faulted, receipt.dose_max) == wanted


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_that_was_halted_says_so_in_its_finish_reason(
    llm: Any, chat: bool, stream: bool
) -> None:
    guard = guard_for(llm)
    policy = dataclasses.replace(guard.policy, alarms=AlarmPolicy(window_tokens=4, on_alert="stop"))
    guard = AlarmingGuard(guard.probe, guard.calibrations, policy)
    with emoguard.attach(llm, guard) as watch:
        if chat:
            turns: Any = [{"role": "user", "content": PROMPT}]
            completion = llm.create_chat_completion(
                turns, max_tokens=20, stream=stream, emoguard=Request(scores="tokens")
            )
        else:
            completion = complete(llm, max_tokens=20, stream=stream)
        chunks = list(completion) if stream else [completion]
        report = watch.reports[-1]
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert (report.finish, report.completion_tokens) == ("halted", 4)
    assert "happy" in report.detail
    text = llm.detokenize([token.id for token in report.tokens]).decode("utf-8", "ignore")
    assert said(chunks) == text != ""
    assert [alert.monitor for alert in guard.alerts] == ["crossing"]


def said(chunks: list[Any]) -> str:
    """The text of a completion or a chat, streamed or not."""
    choices = [chunk["choices"][0] for chunk in chunks]
    parts = [
        each.get("delta") or each.get("message") or {"content": each.get("text")}
        for each in choices
    ]
    return "".join(part.get("content") or "" for part in parts)
