"""Matches random directions to the labels: by realised dose, and by effect on next tokens.

Measured on the same given tokens, the model's own unsteered answers to prompts of the pilot, so
that no direction is judged by the texts it leads to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.steering.plan import Plan
from emoguard.study.speech import Given, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.study.speech import Speech

PROMPTS = 3

TOKENS = 12

REACHED = 0.95
"""Smallest realised dose, as a share of the labels', of a direction that is compared with them."""

ROUNDS = 2
"""Secant steps towards the wanted realised dose, which grows nearly in proportion."""

TIMED = 6
"""Directions that suffice to time one."""


@dataclass(frozen=True)
class Matched:
    """Doses to request, by name of direction, and the realised ones.

    `doses`: each direction's dose whose realised dose is that of the labels; `realised` the ratio
    to the labels' mean. `divergences`: mean KL divergence of next tokens, nats, at these doses.
    `label_divergence` is the labels' mean. No dose is beyond the bound that was given.
    """

    doses: dict[str, float]
    realised: dict[str, float]
    divergences: dict[str, float]
    label_divergence: float

    @property
    def reached(self) -> list[str]:
        """Return the directions that realise the labels' dose.

        The others would need more than the bound allows. They run at the bound, too gently to be
        compared with labels.
        """
        return [name for name, ratio in self.realised.items() if ratio >= REACHED]

    def by_divergence(self, count: int, bound: float) -> dict[str, float]:
        """Return doses at which the first `count` directions diverge as labels do.

        The divergence grows with the square of a small dose. Directions that would need more than
        `bound` are left out.
        """
        wanted = {
            name: dose * (self.label_divergence / self.divergences[name]) ** 0.5
            for name, dose in list(self.doses.items())[:count]
            if self.divergences[name] > 0
        }
        return {name: dose for name, dose in wanted.items() if dose <= bound}


def match(
    speech: Speech,
    prompts: Sequence[str],
    labels: Sequence[str],
    randoms: Sequence[str],
    dose: float,
    *,
    bound: float,
    measured: Callable[[int], object] = lambda _: None,
) -> Matched:
    """Find the dose of each random direction that realises the mean of `labels` at `dose`.

    No dose is beyond `bound`, which the guard would refuse. `measured` gets the number of
    measurements after each text; together they are `measurements`.
    """
    texts = _texts(speech, prompts[:PROMPTS])
    wanted, divergence = (
        each.mean() for each in _measure(speech, texts, dict.fromkeys(labels, dose), measured)
    )
    doses = np.full(len(randoms), dose)
    realised, diverged = np.zeros(len(randoms)), np.zeros(len(randoms))
    for number in range(ROUNDS + 1):
        requested = dict(zip(randoms, doses.tolist(), strict=True))
        realised, diverged = _measure(speech, texts, requested, measured)
        if number < ROUNDS:
            doses = np.minimum(bound, doses * wanted / np.maximum(realised, 1e-9))
    return Matched(
        dict(zip(randoms, np.minimum(bound, doses.round(6)).tolist(), strict=True)),
        dict(zip(randoms, (realised / wanted).tolist(), strict=True)),
        dict(zip(randoms, diverged.tolist(), strict=True)),
        float(divergence),
    )


def measurements(labels: int, randoms: int) -> int:
    """Return how often `match` weighs a text under a direction."""
    return PROMPTS * (labels + (ROUNDS + 1) * randoms)


def seconds_each(
    speech: Speech, prompts: Sequence[str], randoms: Sequence[str], dose: float
) -> float:
    """Return the CPU seconds of one measurement, from one text under some of the directions."""
    texts = _texts(speech, prompts[:1])
    some = randoms[: max(TIMED, speech.rows)]
    started = time.process_time()
    _measure(speech, texts, dict.fromkeys(some, dose))
    return (time.process_time() - started) / len(some)


@dataclass(frozen=True, eq=False)
class _Text:
    """A prompt, the unsteered answer, and its distributions."""

    before: tuple[int, ...]
    token_ids: tuple[int, ...]
    whole: NDArray[np.float32] | None


def _texts(speech: Speech, prompts: Sequence[str]) -> list[_Text]:
    rows = [Row(speech.prompt(prompt)) for prompt in prompts]
    written = speech.write(rows, TOKENS)
    given = [Given(row.before, each.token_ids) for row, each in zip(rows, written, strict=True)]
    weighed = speech.weigh(given, whole=True)
    return [
        _Text(each.before, each.token_ids, own.whole)
        for each, own in zip(given, weighed, strict=True)
    ]


def _measure(
    speech: Speech,
    texts: Sequence[_Text],
    doses: Mapping[str, float],
    measured: Callable[[int], object] = lambda _: None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return realised doses and divergences (directions,), means over the texts."""
    pairs = []
    for text in texts:
        rows = [
            Given(text.before, text.token_ids, Plan(add={name: dose}), text.whole)
            for name, dose in doses.items()
        ]
        pairs.append([(each.dose, each.divergence) for each in speech.weigh(rows)])
        measured(len(rows))
    dose, divergence = np.array(pairs, np.float64).mean(axis=0).T
    return dose, divergence
