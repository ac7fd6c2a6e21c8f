"""Measures for a few seconds how fast a model is here, and forecasts how long a fit takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.recipe import Pooled, Recipe, fit_directions
from emoguard.fit.responses import Sampling, respond
from emoguard.probe.pooling import BATCH, EMBEDDINGS, pooling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.speaker import Generated, Speaker

BUDGET = 3.0
"""Seconds that each measurement takes, where one step does not take longer."""

LENGTH = 0.85
"""Share of the allowed tokens that a response has, where none was waited for."""

MOST_RESPONSES = 6

WIDEST = 1024
"""Width at which the cost of a layer is measured; for wider models it is scaled."""

EXPONENT = 2.5
"""Growth of that cost with the width: between products with the texts and a solution."""

LABELS = 12

FOLDS, SHUFFLED, HALVES, DRAWS = 5, 2, 40, 20
"""Fits of a judgement: topics held out, shuffled labels, halves, directions without meaning."""

BESIDE, BESIDE_WIDTH = 300, 576
"""Cost of a judgement's resamples per 1,000 texts, in fits of one layer of so wide a model."""


@dataclass(frozen=True, eq=False)
class Speed:
    """How long a model takes here, each (2,): seconds by the clock, and of CPU."""

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
    """What is left to do.

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
    """One part of a fit: what is done, how much of it, and `seconds` by the clock and of CPU."""

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
    """Measure how fast `reader` reads texts, and how fast `speaker` responds to prompts."""
    door = reader.door
    response, tokens, longest = _responding(speaker, prompts, sampling)
    length = len(longest.prompt_ids) + len(longest.token_ids)
    layers = range(min(Recipe().keep, door.identity.layers - 1))
    return Speed(
        _reading(door, texts),
        response,
        tokens,
        _timed(lambda: longest.residuals(speaker.door, layers)) / length,
        _layer(door.identity.hidden, len(texts)),
    )


def forecast(speed: Speed, work: Work) -> list[Part]:
    """Return the parts that are left to do, in their order."""
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
    """Return what parts take together, by the clock and of CPU, (2,)."""
    return np.asarray(np.sum([part.seconds for part in parts], axis=0))


def _judged(corpora: int, blocks: int, keep: int) -> int:
    """Return how many fits of one layer a judgement makes; see `emoguard.validate.validation`."""
    choosing = 1 + corpora * FOLDS + corpora
    fixed = corpora * SHUFFLED * FOLDS + HALVES + DRAWS * (corpora + 1)
    return choosing * (blocks + keep) + fixed * keep + corpora * blocks


def _timed(work: Callable[[], object]) -> NDArray[np.float64]:
    start = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - start[0], time.process_time() - start[1]])


def _reading(door: Residuals, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return what a token of a text costs: in batches, as a fit reads, unless one text is slow."""
    ids = sorted((door.tokenize(text) for text in texts), key=len)[len(texts) // 2 :]
    layers = range(EMBEDDINGS, door.identity.layers - 1)
    with pooling(door, layers, len(ids[-1])) as run:
        alone = _timed(lambda: run(ids[:1], [1]))
        if alone[0] > BUDGET:
            return np.asarray(alone / len(ids[0]))
        # The first text has paid for what is loaded late: it may be no measure of the others.
        count = max(1, min(BATCH // len(ids[0]), int(2 * BUDGET / alone[0])))
        spent, tokens = np.zeros(2), 0
        while spent[0] < BUDGET and len(ids) > 1:
            batch, ids = ids[1 : 1 + count], [ids[0], *ids[1 + count :]]
            spent += _timed(lambda batch=batch: run(batch, [1] * len(batch)))  # type: ignore[misc]
            tokens += sum(map(len, batch))
    return np.asarray(spent / tokens if tokens else alone / len(ids[0]))


def _responding(
    speaker: Speaker, prompts: Sequence[str], sampling: Sampling
) -> tuple[NDArray[np.float64], float, Generated]:
    """Return what a response costs, its tokens with the prompt's, and one: cut short if slow."""

    def answer(number: int, tokens: int) -> tuple[NDArray[np.float64], Generated]:
        allowed = dataclasses.replace(sampling, tokens=tokens)
        found: list[Generated] = []
        seconds = _timed(lambda: found.append(respond(speaker, prompts[number], allowed, number)))
        return seconds, found[0]

    answer(0, 1)  # pays for what is loaded late
    (first, _), (few, short) = (answer(0, n) for n in (1, min(16, sampling.tokens)))
    token = np.maximum(few - first, 0) / max(1, len(short.token_ids) - 1)
    whole = first + LENGTH * sampling.tokens * token
    if whole[0] > BUDGET:
        return whole, len(short.prompt_ids) + LENGTH * sampling.tokens, short
    count = min(len(prompts), MOST_RESPONSES, max(1, int(BUDGET / whole[0])))
    seconds, responses = zip(*(answer(n, sampling.tokens) for n in range(count)), strict=True)
    lengths = [len(each.prompt_ids) + len(each.token_ids) for each in responses]
    return np.mean(seconds, axis=0), float(np.mean(lengths)), responses[int(np.argmax(lengths))]


def _layer(width: int, texts: int) -> NDArray[np.float64]:
    """Return what it costs to fit the directions of one layer."""
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
