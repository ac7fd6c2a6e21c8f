"""Times a model for a few seconds and forecasts the duration of a fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.recipe import Pooled, Recipe, fit_directions
from emoguard.fit.responses import Sampling, respond, together
from emoguard.probe.pooling import BATCH, EMBEDDINGS, pooling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.speaker import Generated, Speaker

BUDGET = 3.0
"""Seconds for each measurement, unless a single step takes longer."""

LENGTH = 0.85
"""Assumed share of the allowed tokens in a response, if none could be waited for."""

MOST_RESPONSES = 6

WIDEST = 1024
"""Width at which the cost of a layer is measured; wider models are extrapolated."""

EXPONENT = 2.5
"""Exponent of that cost in the width: between products with the texts and a linear solve."""

LABELS = 12

FOLDS, SHUFFLED, HALVES, DRAWS = 5, 2, 40, 20
"""Fits of a judgement: topics held out, shuffled labels, halves, directions without meaning."""

BESIDE, BESIDE_WIDTH = 300, 576
"""Cost of a judgement's resamples per 1,000 texts, in fits of one layer of so wide a model."""


@dataclass(frozen=True, eq=False)
class Speed:
    """Durations of single steps on this machine, each (2,): wall-clock and CPU seconds."""

    text_token: NDArray[np.float64]
    """To read one token of a text, many texts at a time."""
    response: NDArray[np.float64]
    """To make one response."""
    response_tokens: float
    """Tokens of a prompt and its response, on average."""
    read_token: NDArray[np.float64]
    """To read one token of a response."""
    layer: NDArray[np.float64]
    """To fit the directions of one layer on all texts."""


@dataclass(frozen=True)
class Work:
    """The remaining work of a fit.

    `tokens` of texts to read, `responses` and `examples` to make; `readers` files read all
    `answers`. The fit and its judgement are on `texts` of `corpora`, at `blocks` of `width`.
    """

    tokens: int
    responses: int
    answers: int
    readers: int
    examples: int
    texts: int
    corpora: int
    blocks: int
    width: int


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a fit: its name, its size, and its wall-clock and CPU `seconds`."""

    task: str
    amount: str
    seconds: NDArray[np.float64]


def measure(
    reader: Speaker,
    speaker: Speaker,
    texts: Sequence[str],
    prompts: Sequence[str],
    sampling: Sampling,
) -> Speed:
    """Time `reader` on texts and `speaker` on prompts."""
    door = reader.door
    response, tokens, longest = _responding(speaker, prompts, sampling)
    layers = range(min(Recipe().keep, door.identity.layers - 1))
    return Speed(
        _reading(door, texts),
        response,
        tokens,
        _timed(lambda: longest.residuals(speaker.door, layers)) / _length(longest),
        _layer(door.identity.hidden, len(texts)),
    )


def forecast(speed: Speed, work: Work) -> list[Part]:
    """Return the remaining parts, in order."""
    beside = BESIDE * work.texts / 1000 * min(1.0, (BESIDE_WIDTH / work.width) ** EXPONENT)
    fits = work.blocks + _judged(work.corpora, work.blocks, Recipe().keep) + beside
    answered = work.answers * speed.response_tokens * work.readers
    return [
        Part("read texts", f"{work.tokens:,} tokens", work.tokens * speed.text_token),
        Part(
            "fit directions, judge them",
            f"{work.corpora} corpora, {work.blocks} layers",
            fits * speed.layer,
        ),
        Part("let it answer", f"{work.responses:,} prompts", work.responses * speed.response),
        Part("read its answers", f"{answered:,.0f} tokens", answered * speed.read_token),
        Part("examples", f"{work.examples} answers", work.examples * speed.response),
    ]


def seconds(parts: Sequence[Part]) -> NDArray[np.float64]:
    """Return the wall-clock and CPU seconds of all parts together, (2,)."""
    return np.asarray(np.sum([part.seconds for part in parts], axis=0))


def _judged(corpora: int, blocks: int, keep: int) -> int:
    """Return the number of one-layer fits in a judgement; see `emoguard.validate.validation`."""
    choosing = 1 + corpora * FOLDS + corpora
    fixed = corpora * SHUFFLED * FOLDS + HALVES + DRAWS * (corpora + 1)
    return choosing * (blocks + keep) + fixed * keep + corpora * blocks


def _timed(work: Callable[[], object]) -> NDArray[np.float64]:
    start = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - start[0], time.process_time() - start[1]])


def _reading(door: Residuals, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return seconds per token of a text: in batches, as a fit reads, unless one text is slow."""
    ids = sorted((door.tokenize(text) for text in texts), key=len)[len(texts) // 2 :]
    layers = range(EMBEDDINGS, door.identity.layers - 1)
    with pooling(door, layers, len(ids[-1])) as run:
        alone = _timed(lambda: run(ids[:1], [1]))
        if alone[0] > BUDGET:
            return np.asarray(alone / len(ids[0]))
        # The first text also paid for late loading: its time may not represent the others.
        count = max(1, min(BATCH // len(ids[0]), int(2 * BUDGET / alone[0])))
        spent, tokens, rest = np.zeros(2), 0, ids[1:]
        while spent[0] < BUDGET and rest:
            batch, rest = rest[:count], rest[count:]
            spent += _timed(partial(run, batch, [1] * len(batch)))
            tokens += sum(map(len, batch))
    return np.asarray(spent / tokens if tokens else alone / len(ids[0]))


def _responding(
    speaker: Speaker, prompts: Sequence[str], sampling: Sampling
) -> tuple[NDArray[np.float64], float, Generated]:
    """Return the seconds and tokens of a response, and one response, cut short if slow."""
    size = together(speaker)

    def answer(number: int, tokens: int) -> tuple[NDArray[np.float64], list[Generated]]:
        allowed = dataclasses.replace(sampling, tokens=tokens)
        group = prompts[number * size : (number + 1) * size]
        answers: list[Generated] = []
        seconds = _timed(lambda: answers.extend(respond(speaker, group, allowed, number * size)))
        return seconds / len(group), answers

    respond(speaker, prompts[:1], dataclasses.replace(sampling, tokens=1))  # late loading
    (first, _), (few, short) = (answer(0, n) for n in (1, min(16, sampling.tokens)))
    steps = max(len(each.token_ids) for each in short)
    token = np.maximum(few - first, 0) / max(1, steps - 1)
    whole = first + LENGTH * sampling.tokens * token
    if whole[0] * size > BUDGET:
        longest = max(short, key=_length)
        return whole, len(longest.prompt_ids) + LENGTH * sampling.tokens, longest
    count = min(len(prompts), MOST_RESPONSES, max(1, int(BUDGET / whole[0]))) // size
    groups = [answer(number, sampling.tokens) for number in range(max(1, count))]
    responses = [each for _, group in groups for each in group]
    seconds = np.mean([seconds for seconds, _ in groups], axis=0)
    return seconds, float(np.mean([*map(_length, responses)])), max(responses, key=_length)


def _length(response: Generated) -> int:
    return len(response.prompt_ids) + len(response.token_ids)


def _layer(width: int, texts: int) -> NDArray[np.float64]:
    """Return the seconds for fitting the directions of one layer."""
    size = min(width, WIDEST)
    rng = np.random.default_rng(0)
    names = [f"label {n}" for n in range(LABELS)]
    rows = rng.normal(size=(max(texts, 4 * LABELS), 1, size)).astype(np.float32)
    labels = np.array(names)[np.arange(len(rows)) % LABELS]
    corpus = Pooled(rows, labels, labels)
    seconds = [
        _timed(lambda: fit_directions([corpus], rows[:160], names, layers=[0])) for _ in range(3)
    ]
    return np.asarray(np.median(seconds, axis=0) * (width / size) ** EXPONENT)
