"""Do Transformers and llama.cpp give the same numbers, and do quantised siblings?

Method. The same GGUF file is opened in llama.cpp and, dequantised to float32, in Transformers; 200
texts (half long stories, half single sentences) are read by both through EmoGuard's offline door,
which uses the same hooks as generation. Residual error of a token: the norm of the difference over
the norm of the residual centred over its text, first tokens left out; of a layer: its median over
tokens; the rows give median and maximum over layers, every layer but the last. `pooled`: the same
with squares summed over tokens, so that the few tokens of huge norm (Gemma) decide. z: |difference|
per token and label through the shipped probe, median with a bootstrap interval over texts;
spearman: the lowest over labels of the rank correlation of text means. Siblings of SmolLM2 are read
against F16, each with a calibration on the same answers. `batched`: the largest live difference of
z, left-padded batch against one by one.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_llamacpp.speaker import LlamaSpeaker

from benchmarks.measure import Row, arguments, show
from emoguard import Guard, Request, attach
from emoguard.fit.responses import Sampling, calibrate, responses
from emoguard.runtime.attach import find, shipped
from tests.support.models import (
    DATA,
    gemma_gguf,
    load_hf,
    load_llama,
    quantised,
    qwen_gguf,
    smollm2_gguf,
)

MODELS = {"smollm2": smollm2_gguf, "gemma": gemma_gguf, "qwen": qwen_gguf}
ANSWERS = 48


def texts(count: int) -> list[str]:
    """Return stories and single sentences, half and half, spread over both corpora."""
    chosen = []
    for folder in ("stories_a", "stories_b"):
        lines = (DATA / folder / "stories.jsonl").read_text(encoding="utf-8").splitlines()
        step = len(lines) / (count / 2)
        chosen += [json.loads(lines[int(n * step)])["text"] for n in range(count // 2)]
    return chosen


def prompts(count: int) -> list[str]:
    """Return neutral texts as prompts."""
    lines = (DATA / "stories_b" / "neutral.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:count]]


def runtimes(name: str, many: list[str]) -> list[Row]:
    """Compare the two runtimes on one model."""
    llm = load_llama(MODELS[name]())
    model, tokenizer = load_hf(MODELS[name]())
    doors = [
        find(llm)[0].open_residuals(llm),
        find(model)[0].open_residuals(model, tokenizer=tokenizer),
    ]
    guard = shipped(doors[0])
    layers = list(range(doors[0].identity.layers - 1))
    readouts = [guard.site(door.identity).readout for door in doors]
    errors, sizes = [], []
    gaps, means = [], []
    for index, text in enumerate(many):
        ids = doors[0].tokenize(text)
        a, b = (door.residuals(ids, layers)[:, 1:].astype(np.float64) for door in doors)
        errors.append(np.linalg.norm(a - b, axis=2))
        sizes.append(np.linalg.norm(a - a.mean(axis=1, keepdims=True), axis=2))
        z = [
            readout.read(x[list(guard.probe.layers)].astype(np.float32))
            for readout, x in zip(readouts, (a, b), strict=True)
        ]
        gaps.append(np.abs(z[0] - z[1]))
        means.append([z[0].mean(axis=0), z[1].mean(axis=0)])
        _progress(name, index + 1, len(many))
    error, size = np.concatenate(errors, axis=1), np.concatenate(sizes, axis=1)
    relative = np.median(error / size, axis=1)
    pooled = np.sqrt(np.sum(error**2, axis=1) / np.sum(size**2, axis=1))
    suffix = "" if name == "smollm2" else f"_{name}"
    return [
        Row(f"residual_relative_error_median{suffix}", float(np.median(relative)), None, None, ""),
        Row(f"residual_relative_error_max{suffix}", float(relative.max()), None, None, ""),
        Row(f"residual_pooled_error_median{suffix}", float(np.median(pooled)), None, None, ""),
        Row(f"residual_pooled_error_max{suffix}", float(pooled.max()), None, None, ""),
        _median_gap(f"abs_dz_median{suffix}", gaps),
        Row(f"spearman_min{suffix}", _lowest_spearman(np.array(means)), None, None, ""),
        Row(
            f"batched_abs_dz_max{suffix}", _batched(model, tokenizer, guard, many), None, None, "z"
        ),
    ]


def siblings(many: list[str]) -> list[Row]:
    """Compare quantisations of SmolLM2 against F16, each calibrated on the same answers."""
    reference = load_llama(quantised(smollm2_gguf(), "F16"))
    answers = list(responses(LlamaSpeaker(reference), prompts(ANSWERS), Sampling(tokens=64)))
    wanted, _ = _sibling_z(reference, answers, many)
    rows = []
    for kind in ("Q8_0", "Q4_K_M"):
        path = quantised(smollm2_gguf(), kind)
        z, _ = _sibling_z(load_llama(path), answers, many)
        gaps = [np.abs(a - b) for a, b in zip(wanted, z, strict=True)]
        rows.append(_median_gap(f"abs_dz_median_{kind.lower()}", gaps))
        rows += [
            Row(f"share_{kind.lower()}_{tensor_type}", share, None, None, "of weights")
            for tensor_type, share in tensor_types(path).items()
        ]
    return rows


def _sibling_z(llm: Any, answers: Sequence[Any], many: list[str]) -> tuple[list[Any], Any]:
    door = find(llm)[0].open_residuals(llm)
    probe = shipped(door).probe
    readout = probe.fold(calibrate(door, probe, answers))
    z = []
    for index, text in enumerate(many):
        z.append(readout.read(door.residuals(door.tokenize(text), probe.layers)[:, 1:]))
        _progress(door.identity.quantisation, index + 1, len(many))
    return z, readout


def tensor_types(path: Path) -> dict[str, float]:
    """Return the share of weights stored in each tensor type of a GGUF file."""
    from gguf import GGUFReader

    sizes: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    total = sum(sizes.values())
    return {name: round(count / total, 4) for name, count in sizes.most_common()}


def _batched(model: Any, tokenizer: Any, guard: Guard, many: list[str]) -> float:
    """Return the largest |dz| between rows of a left-padded batch and the same prompts alone."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    chosen = [" ".join(text.split()[: 8 + 3 * n]) for n, text in enumerate(many[:8])]
    how: dict[str, Any] = {
        "max_new_tokens": 12,
        "min_new_tokens": 12,
        "do_sample": False,
        "emoguard": Request(scores="tokens"),
    }
    with attach(model, guard, tokenizer=tokenizer) as watch:
        model.generate(**tokenizer(chosen, return_tensors="pt", padding=True), **how)
        batch = [[token.z for token in report.tokens] for report in watch.reports]
        worst = 0.0
        for n, text in enumerate(chosen):
            model.generate(**tokenizer(text, return_tensors="pt"), **how)
            tokens = watch.reports[-1].tokens
            worst = max(worst, float(np.abs(np.array([t.z for t in tokens]) - batch[n]).max()))
    return worst


def _median_gap(name: str, gaps: Sequence[Any]) -> Row:
    """Return the median of |dz| over tokens and labels, its interval by resampling texts."""
    rng = np.random.default_rng(0)
    resampled = [
        np.median(np.concatenate([gaps[n].ravel() for n in rng.integers(0, len(gaps), len(gaps))]))
        for _ in range(1000)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    every = np.concatenate([gap.ravel() for gap in gaps])
    return Row(name, float(np.median(every)), float(low), float(high), "z")


def _lowest_spearman(means: Any) -> float:
    ranks = means.argsort(axis=0).argsort(axis=0)
    return min(
        float(np.corrcoef(ranks[:, 0, label], ranks[:, 1, label])[0, 1])
        for label in range(means.shape[2])
    )


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {done}/{total} texts" + ("\n" if done == total else ""))


def main() -> None:
    """Run both comparisons and print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--models", default="smollm2,gemma")
    options = parser.parse_args()
    many = texts(options.texts)
    rows = [row for name in options.models.split(",") for row in runtimes(name, many)]
    if "smollm2" in options.models:
        rows += siblings(many)
    show("parity", rows, as_json=options.json)


if __name__ == "__main__":
    main()
