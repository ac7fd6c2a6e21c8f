"""What does steering cost per token, over reading alone?

Method. One watch stays attached. Each pair generates the same number of tokens greedily twice, once
only read and once read and steered, back to back, the order alternating; a block's figure is the
median time between its tokens (the first excluded), a row the median of the paired differences with
a bootstrap interval over pairs. `first_token` is the difference of the time to the first token.
llama.cpp reads through the callback on both sides. Plans: `add_cap` adds one label and caps
another, at four layers; `two_caps` caps two labels at their neutral median, so that something is to
be done at most tokens; `1_layer` is `add_cap` at one layer. `_percent` is the share of a token.

`--model random:llama-8b --device cuda` measures a randomly initialised model of that shape in
Transformers; see read_overhead.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import Row, arguments, interleave, per_token, show
from benchmarks.read_overhead import (
    MODELS,
    PROMPT,
    Ids,
    hf_generate,
    llama_generate,
    middle_layers,
    random_inputs,
    random_model,
)
from emoguard import Guard, Plan, attach
from emoguard.runtime.attach import find, shipped
from emoguard.runtime.watch import Watch
from emoguard.testing import make_probe, measure_calibration
from tests.support.models import load_hf, load_llama

ADD_CAP = Plan(add={"calm": 0.05}, cap={"desperate": 0.99})
RANDOM_LABELS = ("calm", "desperate", "angry", *(f"label{n}" for n in range(17)))
TWO_CAPS = Plan(cap={"desperate": 0.5, "angry": 0.5})


def compare(
    name: str, watch: Watch, generate: Callable[[], list[float]], plan: Plan, pairs: int
) -> list[Row]:
    """Return rows for one runtime and plan."""
    first: tuple[list[float], list[float]] = ([], [])

    def block(side: int) -> float:
        clock = generate()
        first[side].append(1e3 * (clock[1] - clock[0]))
        return 1e3 * float(np.median([b - a for a, b in pairwise(clock[1:])]))

    def steered() -> float:
        with watch.steering(plan):
            value = block(1)
        receipt = watch.reports[-1].receipt
        if receipt is None or receipt.faulted or not receipt.applied:
            raise RuntimeError(f"nothing was steered: {watch.reports[-1]}")
        return value

    steered(), block(0)
    first[0].clear(), first[1].clear()
    read_ms, steered_ms = interleave(lambda: block(0), steered, pairs, name)
    return per_token(name, "read", read_ms, steered_ms, first)


def measure(name: str, watch: Watch, generate: Callable[[], list[float]], pairs: int) -> list[Row]:
    """Return rows for every plan in one runtime."""
    one = Plan(add=ADD_CAP.add, cap=ADD_CAP.cap, layers=watch.guard.probe.layers[:1])
    plans = {"add_cap": ADD_CAP, "two_caps": TWO_CAPS, "1_layer": one}
    return [
        row
        for key, plan in plans.items()
        for row in compare(f"{name}_{key}", watch, generate, plan, pairs)
    ]


def in_llamacpp(model: str, pairs: int) -> list[Row]:
    """Measure the callback."""
    llm = load_llama(MODELS[model](), n_ctx=2048)
    guard = shipped(find(llm)[0].open_residuals(llm))
    with attach(llm, guard, backend="callback") as watch:
        return measure("llamacpp" + _suffix(model), watch, llama_generate(llm, 48), pairs)


def in_transformers(model: str, pairs: int) -> list[Row]:
    """Measure the hooks in float32."""
    hf, tokenizer = load_hf(MODELS[model]())
    guard = shipped(find(hf)[0].open_residuals(hf, tokenizer=tokenizer))
    inputs: dict[str, Any] = dict(tokenizer(PROMPT, return_tensors="pt"))
    with attach(hf, guard, tokenizer=tokenizer) as watch:
        return measure("transformers" + _suffix(model), watch, hf_generate(hf, inputs, 16), pairs)


def in_random(shape: str, device: str, batch: int, mode: str, pairs: int) -> list[Row]:
    """Measure the hooks on a randomly initialised model."""
    model = random_model(shape, device)
    door = Ids(find(model)[0].open_residuals(model))
    probe = make_probe(door, RANDOM_LABELS, middle_layers(model.config.num_hidden_layers, 4))
    guard = Guard(probe, [measure_calibration(door, probe)])
    generate = hf_generate(model, random_inputs(model, batch, mode), 24)
    with attach(model, guard) as watch:
        return measure(f"{shape}_{mode}_batch{batch}", watch, generate, pairs)


def _suffix(model: str) -> str:
    return "" if model == "smollm2" else f"_{model}"


def main() -> None:
    """Run the selected measurements and print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--runtime", default="llamacpp,transformers")
    parser.add_argument("--device", default="cpu", help="of random models")
    parser.add_argument("--batch", default="1,32", help="of random models")
    parser.add_argument("--mode", default="eager,static", help="of random models")
    options = parser.parse_args()
    if options.model.startswith("random:"):
        shape = options.model.partition(":")[2]
        rows = [
            row
            for mode in options.mode.split(",")
            for batch in map(int, options.batch.split(","))
            for row in in_random(shape, options.device, batch, mode, options.pairs)
        ]
        show("steering_overhead", rows, as_json=options.json)
        return
    runs = {"llamacpp": in_llamacpp, "transformers": in_transformers}
    rows = [
        row
        for model in options.model.split(",")
        for runtime in options.runtime.split(",")
        for row in runs[runtime](model, options.pairs)
    ]
    show("steering_overhead", rows, as_json=options.json)


if __name__ == "__main__":
    main()
