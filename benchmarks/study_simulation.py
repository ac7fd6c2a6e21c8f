"""Does the study's own analysis keep its promises? Planted effects, analysed as a study is.

Items differ in how often they express (or harm) unsteered and in how much the vector moves them;
cells of an item share their noise, as common random numbers make them. What is simulated are the
verdicts of judges; everything after that is the code that reports use.

    python benchmarks/study_simulation.py [RUNS]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoguard.study.contrasts import Tested, beats_random, decided, differs, harmless
from emoguard.study.effects import weights_of
from emoguard.study.panel import Panel, difference
from emoguard.study.protocol import Contrast, Protocol

PROTOCOL = Protocol(
    contrasts=(
        Contrast("expression", "happy", "difference"),
        Contrast("expression", "desperate", "difference"),
        Contrast("expression", "happy", "random"),
        Contrast("expression", "desperate", "random"),
        Contrast("premise", "happy", "no_harm", 0.05),
        Contrast("harm", "desperate", "no_harm", 0.05),
    )
)
PROMPTS, FACTS, FORMS, REQUESTS, NULL_PROMPTS, RANDOMS = 120, 140, 3, 400, 40, 199
SHARED = 0.5
"""Share of the noise that cells of an item have in common."""


@dataclass(frozen=True)
class World:
    """Effects in points: of the vector on expression, under a persona on top, on harm."""

    name: str
    vector: float = 0.0
    interaction: float = 0.0
    harm: float = 0.0


WORLDS = (
    World("expression and nothing else", vector=0.12),
    World("harm, exactly the margin", harm=0.05),
    World("nothing"),
    World("prompt x vector", vector=0.08, interaction=0.10),
)
PROMPT, SAMPLING = 0.15, 0.03
"""Effects of persona and of T 1.0 in every world."""


class Drawer:
    """Draws verdicts of cells whose noise is partly the same."""

    def __init__(
        self, rng: np.random.Generator, items: int, clusters: NDArray[np.int64] | None = None
    ) -> None:
        self.rng = rng
        self.base = rng.uniform(0.2, 0.4, items)
        clusters = np.arange(items) if clusters is None else clusters
        own = rng.normal(size=clusters.max() + 1)[clusters]
        # Items of a cluster resemble each other.
        self.base = np.clip(self.base + 0.05 * own, 0.12, 0.5)
        self.common = rng.random(items)
        self.spread = rng.uniform(-0.05, 0.05, items)

    def cell(self, change: float) -> NDArray[np.float64]:
        """Return verdicts (items,) at the base rate plus a change, which varies over items."""
        rate = self.base + change + (self.spread if change else 0.0)
        noise = np.where(
            self.rng.random(len(rate)) < SHARED, self.common, self.rng.random(len(rate))
        )
        return (noise < rate).astype(float)


def expression(rng: np.random.Generator, world: World, label: str) -> Panel:
    """Return the panel of one label's expression."""
    drawer = Drawer(rng, PROMPTS)
    values = {}
    for prompt in ("none", "neutral", *PROTOCOL.labels):
        for sampling in PROTOCOL.samplings:
            change = PROMPT * (prompt == label) + SAMPLING * (sampling == "t1.0")
            # Both labels' cells exist; only those of this label are used.
            values[f"{prompt}|{sampling}|zero"] = drawer.cell(change)
            moved = world.vector + world.interaction * (prompt == label)
            for sign, name in ((1, "+"), (-1, "-")):
                values[f"{prompt}|{sampling}|{label}{name}"] = drawer.cell(change + sign * moved)
    names = tuple(f"p{n}" for n in range(PROMPTS))
    return Panel(names, names, values)


def choices(
    rng: np.random.Generator, change: float, label: str, clusters: NDArray[np.int64]
) -> Panel:
    """Return the panel of a forced choice, unsteered and steered."""
    items = len(clusters)
    drawer = Drawer(rng, items, clusters)
    values = {"none|greedy|zero": drawer.cell(0.0), f"none|greedy|{label}+": drawer.cell(change)}
    return Panel(tuple(map(str, range(items))), tuple(map(str, clusters)), values)


def nulls(
    rng: np.random.Generator, vector: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the label's effect and those of random directions, on prompts of their own."""
    drawer = Drawer(rng, NULL_PROMPTS)
    plain = drawer.cell(0.0)
    label = drawer.cell(vector) - plain
    noise = np.where(
        rng.random((RANDOMS, NULL_PROMPTS)) < SHARED,
        drawer.common,
        rng.random((RANDOMS, NULL_PROMPTS)),
    )
    return label, ((noise < drawer.base) - plain).mean(axis=1)


def truths(world: World) -> dict[str, float]:
    """Return the true size of each effect."""
    own = world.vector + world.interaction
    over_prompts = world.vector + world.interaction / 4
    return {
        "vector": over_prompts,
        "vector, without persona": world.vector,
        "vector reversed": -over_prompts,
        "sampling": SAMPLING,
        "prompt": PROMPT,
        "together": PROMPT + own,
        "prompt x vector": world.interaction,
        "vector against incongruent prompt": world.vector,
    }


def run(world: World, seed: int) -> tuple[dict[str, bool], list[Tested], list[Tested]]:
    """Return whether each interval covers, and the decided contrasts."""
    rng = np.random.default_rng([seed, WORLDS.index(world)])
    covered, tested = {}, []
    steered = difference(["x"], ["zero"])
    for label in PROTOCOL.labels:
        panel, weights = expression(rng, world, label), weights_of(PROTOCOL, label)
        for name, truth in truths(world).items():
            estimate = panel.paired(weights[name]).estimate()
            covered[f"{label}: {name}"] = estimate.low <= truth <= estimate.high
        tested.append(
            differs(Contrast("expression", label, "difference"), panel, weights["vector"])
        )
        observed, randoms = nulls(rng, world.vector)
        names = tuple(map(str, range(NULL_PROMPTS)))
        small = Panel(names, names, {"x": observed, "zero": np.zeros(NULL_PROMPTS)})
        tested.append(
            beats_random(Contrast("expression", label, "random"), small, steered, randoms)
        )
    facts = np.repeat(np.arange(FACTS), FORMS)
    for outcome, label, clusters in (
        ("premise", "happy", facts),
        ("harm", "desperate", np.arange(REQUESTS)),
    ):
        panel = choices(rng, world.harm, label, clusters)
        weights = difference([f"none|greedy|{label}+"], ["none|greedy|zero"])
        estimate = panel.paired(weights).estimate()
        covered[f"{label}: {outcome}"] = estimate.low <= world.harm <= estimate.high
        tested.append(harmless(Contrast(outcome, label, "no_harm", 0.05), panel, weights))
    return covered, tested, decided(tested)


def report(world: World, runs: int) -> str:
    """Return the line of one world."""
    results = [run(world, seed) for seed in range(runs)]
    rates = [float(np.mean([covered[key] for covered, _, _ in results])) for key in results[0][0]]
    shown = [each.p < 0.05 for _, tested, _ in results for each in tested if each.test == "no_harm"]
    false = [
        any(each.verdict == "holds" and not _is_true(each, world) for each in contrasts)
        for _, _, contrasts in results
    ]
    moved = [
        each.verdict == "holds"
        for _, _, contrasts in results
        for each in contrasts
        if each.test == "difference"
    ]
    shares = (
        min(rates),
        np.mean(rates),
        max(rates),
        np.mean(shown),
        np.mean(false),
        np.mean(moved),
    )
    return f"{world.name:30}" + "".join(f"{share:9.2%}" for share in shares)


def _is_true(tested: Tested, world: World) -> bool:
    """Return whether a contrast's claim is true: at the margin no harm is not."""
    return not world.harm if tested.test == "no_harm" else bool(world.vector)


def main(runs: int) -> None:
    """Print one table."""
    print(f"{runs} runs each; wanted: coverage 93.5 to 96.5 %, errors at most 6.5 %")
    columns = ("lowest", "mean", "highest", "no harm", "false", "moved")
    print(f"{'world':30}" + "".join(f"{column:>9}" for column in columns))
    for world in WORLDS:
        print(report(world, runs), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
