"""What does extraction cost over the model itself, and how much memory does it take?

Method. Texts are those of `stories_a` where it is at hand, else the package's own stories. Each
pair runs one batch of them twice, the order alternating: once as the runtime's plain forward (the
same batch, no logits, nothing read, in a context that stays open), once as `extract` does it, from
tokenising and opening its pass to the row on disk. Rows are medians over pairs with bootstrap
intervals. `--cpu` counts the process's CPU time on one thread in place of the clock on two: for a
machine that others use, too. Memory is the growth of the peak resident size in a process of its
own, over n and 4 n short texts (12 words), which fill the largest batch either way.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure
from benchmarks.measure import Row
from emoguard.fit import corpora, extraction
from emoguard.probe import pooling
from emoguard.runtime.attach import find
from tests.support.models import DATA, load_hf, load_llama, smollm2_gguf

Forward = Callable[[list[list[int]]], None]
STORIES = DATA / "stories_a" / "stories.jsonl"
RUNTIMES = ("llamacpp", "transformers")


def open_door(runtime: str, threads: int) -> tuple[Any, Any]:
    """Return SmolLM2 in a runtime, and the door into it."""
    if runtime == "llamacpp":
        model = load_llama(smollm2_gguf(), n_threads=threads, n_threads_batch=threads)
        plugin, inner = find(model)
        return model, plugin.open_residuals(inner)
    import torch

    torch.set_num_threads(threads)
    model, tokenizer = load_hf(smollm2_gguf())
    plugin, inner = find(model)
    return model, plugin.open_residuals(inner, tokenizer=tokenizer)


@contextmanager
def plain_llamacpp(model: Any) -> Iterator[Forward]:
    """Open the plain forward of llama.cpp: texts as sequences of one pass, nothing kept."""
    from emoguard_llamacpp import ctypes_llama, pooling

    tokens, sequences = pooling.BATCH, pooling.MOST
    with ctypes_llama.own_context(model, tokens, pooling.CHUNK, sequences=sequences) as context:

        def forward(batch: list[list[int]]) -> None:
            for group in pooling.groups(batch):
                ctypes_llama.forget(context)
                texts = enumerate(batch[group])
                rows = [(t, p, n) for n, ids in texts for p, t in enumerate(ids)]
                for start in range(0, len(rows), pooling.CHUNK):
                    ctypes_llama.decode_texts(context, rows[start : start + pooling.CHUNK])

        yield forward


@contextmanager
def plain_transformers(model: Any) -> Iterator[Forward]:
    """Open the plain forward of Transformers: padded on the right, the model without its head."""
    import torch

    def forward(batch: list[list[int]]) -> None:
        longest = max(map(len, batch))
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in batch])
        with torch.no_grad():
            model.model(input_ids=ids, use_cache=False)

    yield forward


def overhead(runtime: str, pairs: int, *, cpu: bool) -> list[Row]:
    """Return extraction over plain in percent, and the speed of both in tokens per second."""
    model, door = open_door(runtime, 1 if cpu else 2)
    clock = time.process_time if cpu else time.perf_counter
    stories = [text.text for text in corpora.read(_stories())]
    lengths = [len(door.tokenize(text)) for text in stories]
    batches = [[stories[n] for n in batch] for batch in pooling.batches(lengths)]
    plain_forward = {"llamacpp": plain_llamacpp, "transformers": plain_transformers}[runtime]
    turns: dict[str, Iterator[int]] = {"plain": count(), "extract": count()}

    with plain_forward(model) as forward, tempfile.TemporaryDirectory() as folder:

        def plain() -> float:
            ids = [door.tokenize(text) for text in batches[next(turns["plain"])]]
            start = clock()
            forward(ids)
            return clock() - start

        def extracted() -> float:
            n = next(turns["extract"])
            start = clock()
            extraction.extract(door, batches[n], Path(folder) / str(n))
            return clock() - start

        forward([door.tokenize(text) for text in batches[-1]])  # warm
        bare, read = measure.interleave(plain, extracted, pairs, runtime)
    tokens = [sum(len(door.tokenize(text)) for text in batch) for batch in batches[:pairs]]
    return [
        measure.median(
            f"{runtime}: extraction over plain",
            [100 * (b / a - 1) for a, b in zip(bare, read, strict=True)],
            "%",
        ),
        measure.median(
            f"{runtime}: plain", [n / s for n, s in zip(tokens, bare, strict=True)], "tok/s"
        ),
        measure.median(
            f"{runtime}: extraction", [n / s for n, s in zip(tokens, read, strict=True)], "tok/s"
        ),
    ]


def _stories() -> Path:
    return STORIES if STORIES.exists() else corpora.own_stories()


def peak(runtime: str, texts: int) -> Row:
    """Return how much the peak of a process grows by extracting from `texts` texts."""
    command = [sys.executable, __file__, "--child", runtime, "--texts", str(texts)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Row(
        f"{runtime}: peak, {texts} texts", json.loads(out.splitlines()[-1]), None, None, "MiB"
    )


def child(runtime: str, texts: int) -> None:
    """Print by how many MiB the peak of this process grows."""
    model, door = open_door(runtime, 1)
    if runtime == "transformers":
        for weights in model.parameters():
            weights.sum()  # mapped files count once they are touched: not in what grows
    words = [text.text.split() for text in corpora.read(corpora.own_stories())]
    short = [" ".join(words[n % len(words)][n // len(words) :][:12]) for n in range(texts)]
    extraction.pool(door, short[:1], [0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        extraction.extract(door, short, Path(folder) / "r")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    """Measure both runtimes and print one table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--texts", type=int, default=100, help="n of the memory rows")
    parser.add_argument("--cpu", action="store_true", help="CPU time on one thread")
    parser.add_argument("--runtime", choices=RUNTIMES, help="default: both")
    parser.add_argument("--child", choices=RUNTIMES, help=measure.argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.texts)
        return
    rows: list[Row] = []
    for runtime in [args.runtime] if args.runtime else RUNTIMES:
        rows += overhead(runtime, args.pairs, cpu=args.cpu)
        rows += [peak(runtime, n) for n in (args.texts, 4 * args.texts)]
    measure.show("fit_speed", rows, as_json=args.json)


if __name__ == "__main__":
    main()
