"""What does reading cost per token?

Method. Each pair generates the same tokens greedily on the same model object, once plain and once
under a watch, back to back, the order alternating; attach and detach lie outside the timed part. A
block's figure is the median time between its tokens (the first excluded); a row is the median of
the paired differences with a bootstrap interval over pairs. `first_token` is the difference of the
time to the first token (prompt included). The probe has 20 random labels: cost does not depend on
what directions mean. RSS rows are the growth over 4,000 generated tokens, watched minus plain.

`--model random:llama-8b --device cuda` measures a randomly initialised bfloat16 model of that shape
in Transformers: two objects share its weights and one stays watched, because attaching makes
torch.compile forget. `eager` is `generate` as it comes, `static` has a static cache, whose decoding
`generate` compiles into CUDA graphs by itself where the device can.
"""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import Row, arguments, interleave, median, paired, per_token, show
from emoguard import Guard, attach
from emoguard.runtime.attach import find
from emoguard.testing import make_probe
from tests.support.models import gemma_gguf, load_hf, load_llama, qwen_gguf, smollm2_gguf

LABELS = tuple(f"label{n}" for n in range(20))
PROMPT = "Write a short note to a colleague about the plan for the week, the budget and the visit."
MODELS = {"smollm2": smollm2_gguf, "gemma": gemma_gguf, "qwen": qwen_gguf}
SHAPES = {
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "llama-tiny": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 1024,
    },
}

Timed = Callable[[], list[float]]
"""Generates once; returns the clock at the start and at each token."""


def middle_layers(total: int, count: int) -> tuple[int, ...]:
    """Return `count` layers spread over the middle half of a model."""
    return tuple(sorted({int(n) for n in np.linspace(total // 4, 3 * total // 4, count)}))


def compare(
    name: str, model: Any, generate: Timed, layers: Sequence[int], pairs: int, **options: Any
) -> list[Row]:
    """Return rows per token, first token and attach for one model, read path and layer count."""
    door = find(model)[0].open_residuals(
        model, **{k: v for k, v in options.items() if k != "backend"}
    )
    guard = Guard(make_probe(door, LABELS, layers))
    first: tuple[list[float], list[float]] = ([], [])
    attaching: list[float] = []

    def block(side: int) -> float:
        clock = generate()
        first[side].append(1e3 * (clock[1] - clock[0]))
        return 1e3 * float(np.median([b - a for a, b in pairwise(clock[1:])]))

    def watched() -> float:
        start = time.perf_counter()
        with attach(model, guard, **options) as watch:
            attaching.append(1e3 * (time.perf_counter() - start))
            value = block(1)
            if watch.reports[-1].status != "uncalibrated":
                raise RuntimeError(f"nothing was read: {watch.reports[-1]}")
        return value

    watched(), block(0)
    first[0].clear(), first[1].clear()
    plain_ms, watched_ms = interleave(lambda: block(0), watched, pairs, name)
    return [
        paired(f"{name}_ms", plain_ms, watched_ms),
        median(f"{name}_token_ms_plain", plain_ms, "ms"),
        paired(f"{name}_first_token_ms", *first),
        median(f"{name}_attach_ms", attaching, "ms"),
    ]


class Ids:
    """A door whose witness is made of ids: random models have no tokenizer."""

    def __init__(self, inner: Any) -> None:
        self.identity = inner.identity
        self.residuals = inner.residuals

    def tokenize(self, _text: str, *, special: bool = True) -> list[int]:
        """Return ids that every vocabulary has."""
        return list(range(5, 25 + special))


def llama_generate(llm: Any, tokens: int) -> Timed:
    """Return a timed greedy generation through `Llama.generate`, prompt evaluated anew."""
    prompt = llm.tokenize(PROMPT.encode())

    def generate() -> list[float]:
        llm.reset()
        clock = [time.perf_counter()]
        generator = llm.generate(prompt, temp=0.0)
        clock.extend(time.perf_counter() for _ in islice(generator, tokens))
        generator.close()
        return clock

    return generate


def hf_generate(model: Any, inputs: dict[str, Any], tokens: int) -> Timed:
    """Return a timed greedy `generate`; a stopping criterion of the caller's holds the clock."""
    import torch

    def tick(clock: list[float]) -> Callable[..., Any]:
        def criterion(input_ids: Any, *_: Any, **__: Any) -> Any:
            if input_ids.is_cuda:
                torch.cuda.synchronize()
            clock.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        return criterion

    def generate() -> list[float]:
        clock = [time.perf_counter()]
        model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            stopping_criteria=[tick(clock)],
        )
        return clock

    return generate


def memory(model: Any, generate: Timed, guard: Guard, tokens: int, **options: Any) -> float:
    """Return MiB of RSS growth over 4,000 tokens, watched minus plain."""
    import psutil

    def growth() -> float:
        gc.collect()
        before = psutil.Process().memory_info().rss
        for _ in range(4000 // tokens):
            generate()
        gc.collect()
        return (psutil.Process().memory_info().rss - before) / 2**20

    generate()
    plain = growth()
    with attach(model, guard, **options):
        generate()
        return growth() - plain


def imports(pairs: int) -> Row:
    """Return the extra time of `import emoguard` over `import numpy`, in fresh processes."""

    def run(module: str) -> float:
        code = (
            f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return 1e3 * float(done.stdout)

    return paired("import_ms", *interleave(lambda: run("numpy"), lambda: run("emoguard"), pairs))


def small_models(names: Sequence[str], runtimes: Sequence[str], pairs: int) -> list[Row]:
    """Measure the real small models on the CPU."""
    rows = [imports(min(pairs, 40))]
    for name in names:
        suffix = "" if name == "smollm2" else f"_{name}"
        if "llamacpp" in runtimes:
            rows += _llamacpp_rows(name, suffix, pairs)
        if "transformers" in runtimes:
            rows += _transformers_rows(name, suffix, pairs)
    return rows


def _llamacpp_rows(name: str, suffix: str, pairs: int) -> list[Row]:
    llm = load_llama(MODELS[name](), n_ctx=2048)
    total = int(llm.metadata[f"{llm.metadata['general.architecture']}.block_count"])
    rows = []
    for backend in ("native", "callback"):
        try:
            for count in (4, 1):
                label = f"llamacpp_{backend}{suffix}" + ("" if count == 4 else "_1_layer")
                rows += compare(
                    label,
                    llm,
                    llama_generate(llm, 8),
                    middle_layers(total, count),
                    pairs,
                    backend=backend,
                )
        except Exception as error:  # noqa: BLE001  (a backend this architecture lacks is a finding)
            print(f"{backend} on {name}: {error}", file=sys.stderr)
    door = find(llm)[0].open_residuals(llm)
    guard = Guard(make_probe(Ids(door), LABELS, middle_layers(total, 4)))
    grown = memory(llm, llama_generate(llm, 200), guard, 200)
    rows.append(Row(f"llamacpp_rss_mib{suffix}", grown, None, None, "MiB"))
    rows.append(Row(f"llamacpp_graph_nodes{suffix}", _graph_nodes(llm), None, None, "nodes"))
    return rows


def _graph_nodes(llm: Any) -> int:
    """Return the number of graph nodes that llama.cpp calls the callback for in one decode."""
    from emoguard_llamacpp import ctypes_llama

    calls = 0

    def pass_by(_tensor: int) -> bool:
        nonlocal calls
        calls += 1
        return False

    with ctypes_llama.own_context(llm, 1, 1, pass_by) as context:
        ctypes_llama.decode(context, [llm.token_bos()])
    return calls


def _transformers_rows(name: str, suffix: str, pairs: int) -> list[Row]:
    model, tokenizer = load_hf(MODELS[name]())
    inputs = dict(tokenizer(PROMPT, return_tensors="pt"))
    total = model.config.num_hidden_layers
    rows = []
    for count in (4, 1):
        label = f"transformers{suffix}" + ("" if count == 4 else "_1_layer")
        generate = hf_generate(model, inputs, 5)
        rows += compare(
            label, model, generate, middle_layers(total, count), pairs, tokenizer=tokenizer
        )
    door = find(model)[0].open_residuals(model, tokenizer=tokenizer)
    guard = Guard(make_probe(Ids(door), LABELS, middle_layers(total, 4)))
    batch = {name: tensor.repeat(8, 1) for name, tensor in inputs.items()}
    grown = memory(model, hf_generate(model, batch, 100), guard, 800)
    rows.append(Row(f"transformers_rss_mib{suffix}", grown, None, None, "MiB"))
    return rows


def random_model(shape: str, device: str) -> Any:
    """Return a randomly initialised bfloat16 Transformers model of a real shape."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    if shape not in SHAPES:
        sys.exit(f"--model random: knows {', '.join(SHAPES)}, got {shape}")
    with torch.device(device):
        config = LlamaConfig(**SHAPES[shape])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


def random_inputs(model: Any, batch: int, mode: str) -> dict[str, Any]:
    """Return the inputs of `generate` for a random model, eager or with a static cache."""
    import torch

    ids = torch.randint(1, 1000, (batch, 32), device=model.device)
    how = {"cache_implementation": "static"} if mode == "static" else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **how}


def resident(name: str, model: Any, count: int, batch: int, mode: str, pairs: int) -> list[Row]:
    """Return rows for a random model beside a watched one with the same weights."""
    weights = [*model.parameters(), *model.buffers()]
    watched = copy.deepcopy(model, {id(tensor): tensor for tensor in weights})
    door = find(watched)[0].open_residuals(watched)
    layers = middle_layers(model.config.num_hidden_layers, count)
    inputs = random_inputs(model, batch, mode)
    first: tuple[list[float], list[float]] = ([], [])

    def block(side: int) -> float:
        clock = hf_generate((model, watched)[side], inputs, 24)()
        first[side].append(1e3 * (clock[1] - clock[0]))
        # The second token may be compiled, the third recorded as a graph.
        return 1e3 * float(np.median([b - a for a, b in pairwise(clock[3:])]))

    with attach(watched, Guard(make_probe(Ids(door), LABELS, layers))) as watch:
        for _ in range(3):
            block(0), block(1)
        first[0].clear(), first[1].clear()
        plain_ms, watched_ms = interleave(lambda: block(0), lambda: block(1), pairs, name)
        if watch.reports[-1].status != "uncalibrated":
            raise RuntimeError(f"nothing was read: {watch.reports[-1]}")
    return per_token(name, "plain", plain_ms, watched_ms, first)


def main() -> None:
    """Run the selected measurements and print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--model", default="smollm2,gemma", help="names, or random:SHAPE")
    parser.add_argument("--runtime", default="llamacpp,transformers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", default="1,32", help="of random models")
    parser.add_argument("--mode", default="eager,static", help="of random models")
    parser.add_argument("--layers", default="4,1", help="how many a random model is read at")
    options = parser.parse_args()
    if options.model.startswith("random:"):
        shape = options.model.partition(":")[2]
        model = random_model(shape, options.device)
        rows = [
            row
            for mode in options.mode.split(",")
            for batch in map(int, options.batch.split(","))
            for count in map(int, options.layers.split(","))
            for row in resident(
                f"{shape}_{mode}_batch{batch}_{count}_layers",
                model,
                count,
                batch,
                mode,
                options.pairs,
            )
        ]
    else:
        rows = small_models(options.model.split(","), options.runtime.split(","), options.pairs)
    show("read_overhead", rows, as_json=options.json)


if __name__ == "__main__":
    main()
