"""The llama.cpp plug-in on the real small models."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import emoguard_llamacpp
import numpy as np
import pytest
from emoguard_llamacpp import ctypes_llama
from emoguard_llamacpp.tap import Tap

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe.probe import Probe
from emoguard.records import Request
from emoguard.runtime.attention import sink_length
from emoguard.testing import make_calibration, make_probe
from emoguard.testing.checks import (
    check_faults_stay_inside,
    check_generation_is_untouched,
    check_law,
    check_second_attach_is_refused,
)
from tests.contract.test_llamacpp import LlamaHarness
from tests.support import models

pytestmark = pytest.mark.real

FILES: dict[str, Callable[[], Path]] = {
    "smollm2": models.smollm2_gguf,
    "gemma": models.gemma_gguf,
    "qwen": models.qwen_gguf,
}
LAYERS = {"smollm2": (8, 14, 19, 24), "gemma": (5, 8, 11, 14), "qwen": (6, 10, 14, 18)}
PATHS = [
    ("smollm2", "native"),
    ("smollm2", "callback"),
    ("gemma", "callback"),
    ("qwen", "callback"),
]
PROMPT = "Three friends talk about the weather on a long train ride."


class Llms(dict[str, Any]):
    """The models by name, each loaded when a test wants it: one that is missing skips only that.

    One thread, so that a busy machine does not slow the barriers down.
    """

    def __missing__(self, name: str) -> Any:
        self[name] = models.load_llama(FILES[name](), n_threads=1, n_threads_batch=1)
        return self[name]


class Probes(dict[str, Probe]):
    """A probe of random directions for each model."""

    def __init__(self, llms: Llms) -> None:
        self.llms = llms

    def __missing__(self, name: str) -> Probe:
        door = emoguard_llamacpp.open_residuals(self.llms[name])
        self[name] = make_probe(door, ("happy", "sad", "calm"), LAYERS[name])
        return self[name]


@pytest.fixture(scope="module")
def llms() -> Llms:
    return Llms()


@pytest.fixture(scope="module")
def probes(llms: Llms) -> Probes:
    return Probes(llms)


@pytest.mark.parametrize(("name", "backend"), PATHS)
def test_the_contract_holds(
    llms: dict[str, Any], probes: dict[str, Probe], name: str, backend: str
) -> None:
    harness = LlamaHarness(llms[name], backend)
    for check in (
        check_generation_is_untouched,
        check_law,
        check_second_attach_is_refused,
        check_faults_stay_inside,
    ):
        check(harness, probes[name])


@pytest.mark.parametrize(("name", "backend"), PATHS)
def test_rows_follow_the_offline_reading(
    llms: dict[str, Any], probes: dict[str, Probe], name: str, backend: str
) -> None:
    llm, probe = llms[name], probes[name]
    prompt = llm.tokenize(PROMPT.encode())
    llm.reset()
    with emoguard.attach(llm, Guard(probe), backend=backend) as watch:
        answer = llm.create_completion(
            prompt, max_tokens=24, temperature=0.0, emoguard=Request(scores="tokens")
        )
        report = watch.reports[-1]
    assert report.completion_tokens == answer["usage"]["completion_tokens"]
    live = np.array([token.z for token in report.tokens])
    ids = [token.id for token in report.tokens]
    wanted = probe.project(step_by_step(llm, prompt, ids[:-1], probe.layers))
    spread = wanted.std(axis=0)
    assert np.abs(live - wanted).max() < 1e-3 * spread.min()
    # In one pass over all tokens llama.cpp rounds differently: a few percent on 4-bit weights.
    door = emoguard_llamacpp.open_residuals(llm)
    together = probe.project(door.residuals(prompt + ids[:-1], probe.layers)[:, len(prompt) - 1 :])
    assert np.median(np.abs(live - together) / spread) < 0.08


def step_by_step(
    llm: Any, prompt: list[int], ids: list[int], layers: tuple[int, ...]
) -> np.ndarray:
    """Return the residuals before each generated token and the last, without any watch."""
    tap = Tap(layers, llm.n_embd())
    with ctypes_llama.own_context(llm, len(prompt) + len(ids), 512, tap.answer) as context:
        ctypes_llama.decode(context, prompt)
        for token in ids:
            ctypes_llama.decode(context, [token])
    return np.array(list(tap.take(len(prompt) + len(ids))))[:, len(prompt) - 1 :]


def test_native_and_callback_read_the_same_numbers(
    llms: dict[str, Any], probes: dict[str, Probe]
) -> None:
    llm, scores = llms["smollm2"], []
    for backend in ("native", "callback"):
        with emoguard.attach(llm, Guard(probes["smollm2"]), backend=backend) as watch:
            llm.create_completion(
                PROMPT, max_tokens=16, temperature=0.0, emoguard=Request(scores="tokens")
            )
            scores.append(watch.reports[-1].tokens)
    assert scores[0] == scores[1]
    doors = [emoguard_llamacpp.open_residuals(llm, backend) for backend in ("native", "callback")]
    ids = doors[0].tokenize(PROMPT)
    native, callback = (door.residuals(ids, range(29)) for door in doors)
    assert np.array_equal(native, callback)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("qwen", "original"), *product(("smollm2", "gemma"), ("original", "Q2_K"))],
)
def test_the_witness_accepts_the_right_layer_and_refuses_its_neighbours(
    llms: dict[str, Any], probes: dict[str, Probe], name: str, kind: str
) -> None:
    llm, probe = llms[name], probes[name]
    if kind != "original":
        file = models.quantised(FILES[name](), kind)
        llm = models.load_llama(file, n_threads=1, n_threads_batch=1)
    emoguard.attach(llm, Guard(probe)).detach()
    for shift in (-1, 1):
        moved = dataclasses.replace(probe, layers=tuple(n + shift for n in probe.layers))
        with pytest.raises(EmoGuardError, match="does not sit where the probe was fitted"):
            emoguard.attach(llm, Guard(moved))
    assert not [key for key in vars(llm) if "emoguard" in key]


def test_another_quantisation_is_uncalibrated(
    llms: dict[str, Any], probes: dict[str, Probe]
) -> None:
    probe = probes["smollm2"]
    identity = emoguard_llamacpp.open_residuals(llms["smollm2"]).identity
    guard = Guard(probe, [make_calibration(probe, identity)])
    other = models.load_llama(
        models.quantised(models.smollm2_gguf(), "Q8_0"), n_threads=1, n_threads_batch=1
    )
    for llm, status in ((llms["smollm2"], "scored"), (other, "uncalibrated")):
        with emoguard.attach(llm, guard) as watch:
            llm.create_completion(PROMPT, max_tokens=4, temperature=0.0)
            assert watch.reports[-1].status == status


def test_a_chat_is_answered_and_scored_as_without_a_watch(
    llms: dict[str, Any], probes: dict[str, Probe]
) -> None:
    llm = llms["smollm2"]
    question = {
        "messages": [{"role": "user", "content": "Name three colours."}],
        "max_tokens": 24,
        "temperature": 0.7,
        "seed": 5,
    }
    llm.reset()
    wanted = llm.create_chat_completion(**question)["choices"]
    llm.reset()
    with emoguard.attach(llm, Guard(probes["smollm2"])) as watch:
        answer = llm.create_chat_completion(**question)
        assert answer["choices"] == wanted
        report = watch.reports[-1]
        assert report.tokens_scored == answer["usage"]["completion_tokens"]
        assert report.finish == answer["choices"][0]["finish_reason"]


def test_detaching_while_another_thread_generates_leaves_the_response_as_it_was(
    llms: dict[str, Any], probes: dict[str, Probe]
) -> None:
    llm, guard = llms["smollm2"], Guard(probes["smollm2"])
    options = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0.0}
    wanted = llm.create_completion(**options)["choices"][0]["text"]
    for number in (0, 2, 4):
        llm.reset()
        watch = emoguard.attach(llm, guard, backend="callback")
        parts, begun = [], threading.Event()

        def generate(number: int = number, parts: list[str] = parts, begun: Any = begun) -> None:
            for part in llm.create_completion(**options, stream=True):
                parts.append(part["choices"][0]["text"])
                if len(parts) > number:
                    begun.set()  # the detach meets the next pass

        thread = threading.Thread(target=generate)
        thread.start()
        assert begun.wait(60)
        watch.detach()
        thread.join()
        assert "".join(parts) == wanted
        assert [report.status for report in watch.reports] == ["cancelled"]


SINKS = ("Hi", "The", " a a a a a a a a", "!!!!!!!!!!!!", "Hi there", "a b a b", "Hello. " * 9)


@pytest.mark.parametrize("text", SINKS)
def test_sinks_are_where_the_residual_is_tens_of_times_as_long(
    llms: dict[str, Any], text: str
) -> None:
    llm = llms["smollm2"]
    door = emoguard_llamacpp.open_residuals(llm)
    with emoguard.open_guard(llm) as guard:
        norms = guard.calibration(door.identity).norms
        layers = guard.probe.layers
    ids = door.tokenize(text)
    lengths = np.linalg.norm(door.residuals(ids, layers), axis=2) / norms[:, None]
    assert (lengths.min(axis=0) > 10).sum() == (lengths.max(axis=0) > 2).sum() == sink_length(ids)


@pytest.mark.parametrize("text", SINKS)
def test_a_prompt_of_one_token_raises_no_alarm(llms: dict[str, Any], text: str) -> None:
    llm = llms["smollm2"]
    with emoguard.open_guard(llm) as guard, emoguard.attach(llm, guard) as watch:
        llm.create_completion(text, max_tokens=24, temperature=0.0)
        report = watch.reports[-1]
    assert report.status == "scored"
    assert report.tokens_scored == report.completion_tokens
    assert all(abs(score.mean) < 2.5 for score in report.scores.values())
    assert not any(score.crossings for score in report.scores.values())
