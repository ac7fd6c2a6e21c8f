"""Does any intervention exceed its bound?

Method. `violations` counts stored residuals with ||h' - h|| > b ||h||, both lengths taken in
float64 from the values as stored, without tolerance; b is the layer's share of the bound.
`worst_share` is the largest ||h' - h|| / (b ||h||).

Functions: random plans (doses to 1e6, caps, floors, ablations, bounds from 1e-5 to .5) on random
residuals of 1e-20 to 1e20 in length, of one huge coordinate, or along a limited direction; a row
that is not finite must keep every bit. Adversarial: interventions that no file may hold, put
together by hand (steps of 1e-45 to 3e38, limits of 1e-40 to 3e38 on up to six directions that may
be nearly dependent, shares of the bound down to the rounding of the dtype) on residuals of every
length that the dtype has. `fused` is the Triton kernel: on a GPU, or on a CPU with
TRITON_INTERPRET=1.

Live: sampled responses of both runtimes, h and h' taken before and after the hook. 200 emotional
prompts with a .99 cap on what the prompt is about (`own`); the same with .99 caps on sad, angry,
desperate and afraid (`four`), both within the default bound; random plans at the ceiling
(`random`). `caps_missed` counts generated tokens whose stored h'.v lies over a cap at any layer
although they are not marked as clipped (a cap that an ablation of the same label narrows to a point
is none); `clipped` is the share of tokens that are, `moved` of those that were moved at all.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_llamacpp.speaker import LlamaSpeaker

from benchmarks.measure import Row, arguments, show
from emoguard import Guard, Plan, Policy, Report, Request, attach
from emoguard.fit.responses import Sampling, first_half, respond
from emoguard.probe.shipped import shipped_files
from emoguard.runtime.attach import find, shipped
from emoguard.runtime.reading import Reading, Steered
from emoguard.steering.bound import intervene
from emoguard.steering.intervention import Intervention, Steering
from emoguard.steering.plan import CEILING
from emoguard.steering.policy import SteeringPolicy
from emoguard.steering.prepare import prepare
from tests.support.models import gemma_gguf, load_hf, load_llama, smollm2_gguf

PROMPTS = Path(__file__).parents[1] / "emoguard" / "fit" / "prompts" / "benign.tsv"
MODELS = {"smollm2": smollm2_gguf, "gemma": gemma_gguf}
FOUR = ("sad", "angry", "desperate", "afraid")
BATCH = 16


@dataclass
class Tally:
    """Counts of checked rows and of violations."""

    rows: int = 0
    violations: int = 0
    worst: float = 0.0
    tokens: int = 0
    missed: int = 0
    clipped: int = 0
    moved: int = 0

    def add(self, before: NDArray[Any], after: NDArray[Any], budget: float) -> None:
        """Check rows (rows, hidden) of float64 that hold the stored values exactly."""
        finite = np.isfinite(before).all(axis=1)
        changed = np.any(before[~finite] != after[~finite], axis=1)
        changed &= ~np.isnan(before[~finite]).any(axis=1)
        before, after = before[finite], after[finite]
        length = np.linalg.norm(before, axis=1)
        change = np.linalg.norm(after - before, axis=1)
        self.rows += len(finite)
        # Rows that are not finite are not within the bound, either.
        self.violations += int(changed.sum() + (~(change <= budget * length)).sum())
        share = change[length > 0] / (budget * length[length > 0])
        self.worst = max(self.worst, float(share.max(initial=0)))


# The functions.


def drawn_plan(rng: np.random.Generator, labels: Sequence[str]) -> Plan:
    """Return a random composition on up to six labels, doses up to 1e6."""
    chosen = [str(label) for label in rng.permutation(labels)[: rng.integers(1, 7)]]

    def some() -> list[str]:
        return [label for label in chosen if rng.random() < 0.5]

    return Plan(
        add={label: float(rng.choice([-1, 1]) * 10 ** rng.uniform(-3, 6)) for label in some()},
        cap={label: float(rng.uniform(0.5, 1)) for label in some()},
        floor={label: float(rng.uniform(0, 0.5)) for label in some()},
        ablate=tuple(some()),
    )


def drawn_rows(
    rng: np.random.Generator, count: int, at: Intervention, norm: float
) -> NDArray[np.float64]:
    """Return residuals (count, hidden), a third of each kind, half of ordinary length."""
    hidden = len(at.shift)
    rows = rng.normal(size=(count, hidden)) / hidden**0.5
    rows[::3, rng.integers(hidden)] *= 1e4
    if len(at.directions):
        rows[1::3] = rows[1::3] * 0.1 + at.directions[rng.integers(len(at.directions))]
    wild = 10.0 ** rng.uniform(-20, 20, (count, 1))
    ordinary = norm * 10.0 ** rng.uniform(-1, 1, (count, 1))
    return np.asarray(rows * np.where(rng.random((count, 1)) < 0.5, wild, ordinary))


def hostile_steering(rng: np.random.Generator, hidden: int, limits: int) -> Steering:
    """Return an intervention of `limits` limits with numbers of every size."""

    def some(lowest: float, highest: float, shape: Any = ()) -> Any:
        signs = rng.choice([-1.0, 1.0], shape)
        return np.float32(signs * 10.0 ** rng.uniform(lowest, highest, shape))

    directions = rng.normal(size=(limits, hidden)) + 10 ** rng.uniform(-1, 4) * rng.normal(
        size=hidden
    )
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    along = (
        directions[0] if limits and rng.random() < 0.5 else rng.normal(size=hidden) / hidden**0.5
    )
    if rng.random() < 0.2:
        along = np.eye(hidden)[rng.integers(hidden)]
    shift = (along * np.float64(some(-45, 38.5)) * (rng.random() < 0.7)).astype(np.float32)
    low, high = np.sort(some(-40, 38.5, (2, limits)), axis=0)
    low[rng.random(limits) < 0.3], high[rng.random(limits) < 0.3] = -np.inf, np.inf
    budget = float(rng.choice([10 ** rng.uniform(-8, -0.31), 2.0**-8 * rng.uniform(0.9, 3), 0.5]))
    gram = (directions @ directions.T).astype(np.float32)
    at = Intervention(0, shift, directions.astype(np.float32), low, high, gram, budget)
    return Steering(Plan(), budget, (at,))


def hostile_rows(rng: np.random.Generator, count: int, at: Intervention) -> NDArray[np.float64]:
    """Return residuals (count, hidden) of every length, a quarter of each kind."""
    hidden = len(at.shift)
    rows = rng.normal(size=(count, hidden)) / hidden**0.5
    rows[::4] *= rng.random((len(rows[::4]), hidden)) < 0.02
    rows[1::4, rng.integers(hidden)] *= 10.0 ** rng.uniform(0, 30)
    if len(at.directions):
        rows[2::4] = rows[2::4] * 0.1 + at.directions[rng.integers(len(at.directions))]
    return np.asarray(rows * 10.0 ** rng.uniform(-45, 38.5, (count, 1)))


def in_numpy(
    rows: NDArray[np.float64], plans: Sequence[Steering], index: int, dtype: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rows as stored before and after, a share of them under each plan."""
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype)
    parts = np.split(stored, len(plans))
    moved = [
        intervene(part, plan.interventions[index]).h
        for part, plan in zip(parts, plans, strict=True)
    ]
    return stored.astype(np.float64), np.concatenate(moved).astype(np.float64)


def in_torch(
    rows: NDArray[np.float64], plans: Sequence[Steering], index: int, dtype: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same for one batch in torch, in which every row has its own plan."""
    from emoguard_torch import steer

    return _batch(rows, plans, index, dtype, lambda h, layer: steer.intervene(h, layer, layer.rows))


def in_torch_wide(
    rows: NDArray[np.float64], plans: Sequence[Steering], index: int, dtype: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same on a device that sums squares beyond the range of float32."""
    from unittest import mock

    def wide(x: Any, dim: int) -> Any:
        return x.double().square().sum(dim).sqrt().float()

    with mock.patch("torch.linalg.vector_norm", wide):
        return in_torch(rows, plans, index, dtype)


def on_cpu(
    rows: NDArray[np.float64], plans: Sequence[Steering], index: int, dtype: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same for one batch on a CPU, where the reference moves each row."""
    from emoguard_torch import steer

    return _batch(rows, plans, index, dtype, lambda h, layer: steer.steer(layer, h, 0))


def fused(
    rows: NDArray[np.float64], plans: Sequence[Steering], index: int, dtype: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same for the one kernel."""
    import torch
    from emoguard_torch import fused

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _batch(
        rows, plans, index, dtype, lambda h, layer: fused.intervene(h, layer, layer.rows), device
    )


def _batch(
    rows: NDArray[np.float64],
    plans: Sequence[Steering],
    index: int,
    dtype: str,
    move: Callable[..., Any],
    device: str = "cpu",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import torch
    from emoguard_torch.steer import MOVES, gather

    stored = torch.tensor(rows).to(getattr(torch, dtype))[:, None].to(device)
    each = [plan for plan in plans for _ in range(len(rows) // len(plans))]
    at = plans[0].interventions[index].layer
    layer = gather(each, at, device, torch.empty((len(rows), MOVES), device=device))
    moved = move(stored, layer)
    return stored[:, 0].cpu().double().numpy(), moved[:, 0].cpu().double().numpy()


VARIANTS: dict[str, tuple[Callable[..., Any], str]] = {
    "numpy_float32": (in_numpy, "float32"),
    "numpy_float16": (in_numpy, "float16"),
    "torch_float32": (in_torch, "float32"),
    "torch_float16": (in_torch, "float16"),
    "torch_bfloat16": (in_torch, "bfloat16"),
    "torch_wide_float32": (in_torch_wide, "float32"),
    "cpu_float16": (on_cpu, "float16"),
    "cpu_bfloat16": (on_cpu, "bfloat16"),
}
FUSED: dict[str, tuple[Callable[..., Any], str]] = {
    f"fused_{dtype}": (fused, dtype) for dtype in ("float32", "float16", "bfloat16")
}
"""Where there is Triton."""


def functions(wanted: int) -> list[Row]:
    """Check at least `wanted` rows x layers of each implementation and dtype."""
    guards = [Guard.load(name) for name in shipped_files()]
    rng = np.random.default_rng(0)
    tallies = {name: Tally() for name in VARIANTS}
    draw = 0
    while min(tally.rows for tally in tallies.values()) < wanted:
        guard = guards[draw % len(guards)]
        draw += 1
        calibration = guard.calibrations[0]
        plans = [
            prepare(
                drawn_plan(rng, guard.labels),
                guard.probe,
                calibration,
                float(min(CEILING, 10 ** rng.uniform(-5, -0.25))),
            )
            for _ in range(4)
        ]
        for index, norm in enumerate(calibration.norms):
            rows = np.concatenate(
                [drawn_rows(rng, 128, plan.interventions[index], float(norm)) for plan in plans]
            )
            for name, (run, dtype) in VARIANTS.items():
                before, after = run(rows, plans, index, dtype)
                shares = zip(np.split(before, 4), np.split(after, 4), plans, strict=True)
                for old, new, plan in shares:
                    tallies[name].add(old, new, plan.interventions[index].budget)
        _progress("functions", tallies["numpy_float32"].rows, wanted)
    return [row for name, tally in tallies.items() for row in _bound_rows(name, tally)]


def adversarial(wanted: int) -> list[Row]:
    """Check at least `wanted` rows of each implementation and dtype."""
    rng = np.random.default_rng(1)
    variants = VARIANTS | (FUSED if importlib.util.find_spec("triton") else {})
    tallies = {name: Tally() for name in variants}
    while min(tally.rows for tally in tallies.values()) < wanted:
        hidden, limits = int(rng.choice([48, 96, 576])), int(rng.integers(0, 7))
        plans = [hostile_steering(rng, hidden, limits) for _ in range(8)]
        rows = np.concatenate([hostile_rows(rng, 64, plan.interventions[0]) for plan in plans])
        for name, (run, dtype) in variants.items():
            with np.errstate(all="ignore"):
                before, after = run(rows, plans, 0, dtype)
            for old, new, plan in zip(np.split(before, 8), np.split(after, 8), plans, strict=True):
                tallies[name].add(old, new, plan.interventions[0].budget)
        _progress("adversarial", tallies["numpy_float32"].rows, wanted)
    return [row for name, tally in tallies.items() for row in _bound_rows(f"hostile_{name}", tally)]


# Live.


class Keeping(Guard):
    """A guard that also keeps the moves of each token of the last responses."""

    def __init__(self, guard: Guard, policy: Policy) -> None:
        super().__init__(guard.probe, guard.calibrations, policy)
        self.steered: list[Steered] = []

    def report(self, reading: Reading, request: Request, faults: Sequence[str] = ()) -> Report:
        """Keep, then report as ever."""
        if reading.steered is not None:
            self.steered.append(reading.steered)
        return super().report(reading, request, faults)


@dataclass
class Seen:
    """Residuals around one layer's hook: one array (positions, hidden) per forward pass and row."""

    before: list[NDArray[np.float64]] = field(default_factory=list)
    after: list[NDArray[np.float64]] = field(default_factory=list)


def judge(tally: Tally, steered: Steered, layers: Sequence[Seen]) -> None:
    """Check one response: the bound at every position, caps at the residual of every token."""
    tokens = len(steered.dose)
    over = np.zeros(tokens, bool)
    for seen, each in zip(layers, steered.steering.interventions, strict=True):
        if len(seen.before) < tokens or len(seen.before) != len(seen.after):
            raise RuntimeError(f"saw {len(seen.before)} passes of {tokens} tokens")
        tally.add(np.concatenate(seen.before), np.concatenate(seen.after), each.budget)
        last = np.array([rows[-1] for rows in seen.after[:tokens]])
        if len(each.directions):
            along = last @ each.directions.astype(np.float64).T
            over |= np.any((along > each.high) & (each.high > each.low), axis=1)
    tally.tokens += tokens
    tally.missed += int((over & ~steered.clipped & ~steered.faulted).sum())
    tally.clipped += int(steered.clipped.sum())
    tally.moved += int((steered.dose > 0).sum())


@dataclass(frozen=True)
class Case:
    """One response to generate: prompt, plan, seed."""

    prompt: str
    plan: Plan
    seed: int


def cases(kind: str, labels: Sequence[str], count: int) -> list[Case]:
    """Return `count` prompts with plans of a kind; prompts come again when there are fewer."""
    lines = [line.split("\t") for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    # Spread over the labels, which the file holds in blocks.
    lines = [lines[n] for n in np.random.default_rng(0).permutation(len(lines))]
    rng = np.random.default_rng(1)
    prompts = []
    for n in range(count):
        label, prompt = lines[n % len(lines)]
        plan = Plan(cap={label: 0.99})
        if kind == "four":
            plan = Plan(cap=dict.fromkeys(FOUR, 0.99))
        elif kind == "random":
            plan = drawn_plan(rng, labels)
            while plan.is_empty:
                plan = drawn_plan(rng, labels)
        prompts.append(Case(prompt, plan, n))
    return prompts


def live_llamacpp(
    name: str, kind: str, count: int, tokens: int, policy: Policy
) -> Iterator[tuple[Steered, list[Seen]]]:
    """Generate one by one; the rows that the callback reads and writes are read again as stored."""
    llm = load_llama(MODELS[name](), n_ctx=1024)
    guard = Keeping(shipped(find(llm)[0].open_residuals(llm)), policy)
    with attach(llm, guard, backend="callback") as watch:
        for one in cases(kind, guard.labels, count):
            guard.steered.clear()
            with stored_rows() as seen, watch.steering(one.plan):
                respond(LlamaSpeaker(llm), [one.prompt], Sampling(tokens), one.seed)
            (steered,) = guard.steered
            yield steered, [seen[layer] for layer in steered.steering.layers]


@contextmanager
def stored_rows() -> Iterator[dict[int, Seen]]:
    """Record the last row of each steered node as stored, before and after, by layer."""
    from emoguard_llamacpp import ctypes_llama
    from emoguard_llamacpp.steer import Steer

    seen: dict[int, Seen] = {}
    plain = Steer.see

    def noting(self: Steer, tensor: int) -> None:
        head, _, layer = ctypes_llama.tensor_name(tensor).partition(b"-")
        if head != b"l_out" or int(layer) not in self.steering.layers:
            return
        each = seen.setdefault(int(layer), Seen())
        hidden = len(self.steering.interventions[0].shift)
        each.before.append(ctypes_llama.tensor_rows(tensor, hidden)[-1:].astype(np.float64))
        plain(self, tensor)
        each.after.append(ctypes_llama.tensor_rows(tensor, hidden)[-1:].astype(np.float64))

    Steer.see = noting  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Steer.see = plain  # type: ignore[method-assign]


def live_transformers(
    name: str, kind: str, count: int, tokens: int, policy: Policy
) -> Iterator[tuple[Steered, list[Seen]]]:
    """Generate in left-padded batches, one plan per row, with a hook on either side of ours."""
    import torch

    model, tokenizer = load_hf(MODELS[name]())
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    door = find(model)[0].open_residuals(model, tokenizer=tokenizer)
    guard = Keeping(shipped(door), policy)
    layers = guard.probe.layers
    many = cases(kind, guard.labels, count)
    for start in range(0, len(many), BATCH):
        some = many[start : start + BATCH]
        guard.steered.clear()
        torch.manual_seed(some[0].seed)
        with (
            outputs(model, layers) as before,
            attach(model, guard, tokenizer=tokenizer),
            outputs(model, layers) as after,
        ):
            for each in before.values():
                each.clear()  # the witness
            model.generate(
                **tokenized(tokenizer, [one.prompt for one in some]),
                do_sample=True,
                temperature=0.7,
                max_new_tokens=tokens,
                emoguard=[Request(plan=one.plan) for one in some],
            )
        for row, steered in enumerate(guard.steered):
            yield (
                steered,
                [
                    Seen(
                        [h[row].double().numpy() for h in before[layer]],
                        [h[row].double().numpy() for h in after[layer]],
                    )
                    for layer in steered.steering.layers
                ],
            )


@contextmanager
def outputs(model: Any, layers: Sequence[int]) -> Iterator[dict[int, list[Any]]]:
    """Record the outputs of blocks after the hooks registered so far."""
    from emoguard_torch.tensors import hidden_state
    from emoguard_transformers.blocks import find_blocks

    seen: dict[int, list[Any]] = {layer: [] for layer in layers}
    handles = [
        find_blocks(model)[layer].register_forward_hook(
            lambda _module, _args, out, into=seen[layer]: into.append(hidden_state(out).clone())
        )
        for layer in layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tokenized(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Return prompts as one batch, in the chat template where there is one."""
    if not tokenizer.chat_template:
        return tokenizer([first_half(p) for p in prompts], return_tensors="pt", padding=True)
    return tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )


RUNTIMES = {"llamacpp": live_llamacpp, "transformers": live_transformers}


def live(name: str, runtime: str, responses: int, tokens: int) -> list[Row]:
    """Check one model in one runtime."""
    rows, whole = [], Tally()
    wide = SteeringPolicy(max_dose_ratio=CEILING, on_excess="clip")
    kinds = {
        "own": (responses, Policy()),
        "four": (responses, Policy()),
        "random": (responses // 3, Policy(steering=wide)),
    }
    for kind, (count, policy) in kinds.items():
        tally = Tally()
        for number, (steered, seen) in enumerate(
            RUNTIMES[runtime](name, kind, count, tokens, policy)
        ):
            judge(tally, steered, seen)
            _progress(f"{name} {runtime} {kind}", number + 1, count)
        label = f"{name}_{runtime}_{kind}"
        rows += [
            _plain(f"{label}_moved", tally.moved / tally.tokens, "of tokens"),
            _plain(f"{label}_clipped", tally.clipped / tally.tokens, "of tokens"),
            _plain(f"{label}_caps_missed", tally.missed, "tokens"),
        ]
        whole.rows += tally.rows
        whole.tokens += tally.tokens
        whole.violations += tally.violations
        whole.worst = max(whole.worst, tally.worst)
    return [
        _plain(f"{name}_{runtime}_tokens", whole.tokens, "tokens"),
        *_bound_rows(f"{name}_{runtime}", whole),
        *rows,
    ]


def _bound_rows(name: str, tally: Tally) -> list[Row]:
    return [
        _plain(f"{name}_rows", tally.rows, "residuals"),
        _plain(f"{name}_violations", tally.violations, "residuals"),
        _plain(f"{name}_worst_share", tally.worst, "of the bound"),
    ]


def _plain(name: str, value: float, unit: str) -> Row:
    return Row(name, float(value), None, None, unit)


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {done}/{total}" + ("\n" if done >= total else ""))


def main() -> None:
    """Run the selected measurements and print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="per implementation and dtype")
    parser.add_argument("--adversarial", type=int, default=150_000, help="the same")
    parser.add_argument("--responses", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32, help="most of a response")
    parser.add_argument("--models", default="smollm2,gemma")
    parser.add_argument("--runtimes", default="transformers,llamacpp", help="empty: functions only")
    parser.add_argument("--quick", action="store_true", help="a small part of everything")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.adversarial = 2000, 2000
        options.responses, options.tokens = 6, 8
    rows = functions(options.rows) if options.rows else []
    rows += adversarial(options.adversarial) if options.adversarial else []
    for runtime in filter(None, options.runtimes.split(",")):
        for name in options.models.split(","):
            rows += live(name, runtime, options.responses, options.tokens)
    show("steering_bound", rows, as_json=options.json)


if __name__ == "__main__":
    main()
