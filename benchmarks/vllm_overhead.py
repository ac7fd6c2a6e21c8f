"""What reading and steering cost in vLLM: CPU time of a batch, and of our own code in each step.

Runs in the environment of `make test-vllm`. Three engines, each in a process of its own, take
turns: two of vLLM alone and one with EmoGuard. off/off compares the first two, so it is the noise
of the method itself.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

import numpy as np
from measure import Row, arguments, interleave, median, show

PROBE = "smollm2-135m-instruct"
PLAN: Any = {"add": {"sad": 0.06}, "cap": {"angry": 0.6}}
REQUESTS, TOKENS = 8, 32

Mode = Literal["off", "read", "steer"]
Ask = Callable[[str], Any]
Spent = Callable[..., None]
"""Takes the µs that a call of our code took, and its arguments."""


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--eager", action="store_true", help="without the compiler")
    parser.add_argument("--bound", type=int, default=0, help="rows to check the bound on, instead")
    chosen = parser.parse_args()
    if chosen.bound:
        show("vllm_bound", bound(chosen.bound), as_json=chosen.json)
        return
    show("vllm_overhead", overhead(chosen.pairs, eager=chosen.eager), as_json=chosen.json)


def overhead(pairs: int, *, eager: bool) -> list[Row]:
    """Return what a batch costs beside one of vLLM alone, in CPU time of the engine's process."""
    rows: list[Row] = []
    with ExitStack() as stack:
        plain, other, ours = (
            stack.enter_context(engine(hooked, eager)) for hooked in (False, False, True)
        )
        turns: tuple[tuple[Mode, Ask], ...] = (("off", other), ("read", ours), ("steer", ours))
        for mode, ask in turns:
            plain("off"), ask(mode)
            before, after = interleave(lambda: plain("off"), lambda: ask(mode), pairs, mode)  # noqa: B023
            share = 100 * (np.array(after) / np.array(before) - 1)
            rows.append(median(f"{mode}_over_off_percent", share, "%"))
        rows.append(median("off_batch_ms", before, "ms"))
        rows += ours("steps")
    return rows


@contextmanager
def engine(hooked: bool, eager: bool) -> Iterator[Ask]:
    """Start an engine in a process; yield what asks it: for a batch in a mode, or for its steps."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=answer, args=(there, hooked, eager))
    process.start()
    there.close()

    def ask(what: str) -> Any:
        here.send(what)
        return here.recv()

    try:
        ask("start")
        yield ask
    finally:
        here.close()
        process.join()


def answer(pipe: Any, hooked: bool, eager: bool) -> None:
    """Run an engine and answer until nobody asks."""
    batches = Batches(hooked, eager)
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        pipe.send(batches.ask(what))


class Batches:
    """An engine on SmolLM2, and a batch for it."""

    def __init__(self, hooked: bool, eager: bool) -> None:
        from vllm import LLM, SamplingParams

        from emoguard.guard import Guard
        from tests.support.models import hf_copy, smollm2_gguf

        self.llm = LLM(
            str(hf_copy(smollm2_gguf())),
            dtype="float32",
            max_model_len=512,
            max_num_seqs=REQUESTS,
            enforce_eager=eager,
            distributed_executor_backend="uni",
            enable_prefix_caching=False,
            additional_config={"emoguard": {"probe": PROBE}} if hooked else {},
        )
        rng = np.random.default_rng(0)
        self.prompts = [
            {"prompt_token_ids": rng.integers(100, 40_000, 40).tolist()} for _ in range(REQUESTS)
        ]
        self.sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
        self.guard = Guard.load(PROBE)

    def ask(self, what: str) -> Any:
        """Return the CPU time of a batch in ms, or the rows of our own steps."""
        if what == "start":
            return None
        if what == "steps":
            return [row for mode in ("read", "steer") for row in self.steps(mode)]
        return self.batch(what)

    def batch(self, mode: str) -> float:
        """Run the batch; return the CPU time of this process, in ms."""
        import emoguard

        watching = nullcontext() if mode == "off" else emoguard.attach(self.llm, self.guard)
        with watching:
            start = time.process_time()
            self.generate(mode)
            return 1e3 * (time.process_time() - start)

    def generate(self, mode: str) -> None:
        """Run the batch."""
        from emoguard.records import Request

        own = {"emoguard": Request(plan=PLAN if mode == "steer" else None)} if mode != "off" else {}
        self.llm.generate(self.prompts, self.sampling, use_tqdm=False, **own)

    def steps(self, mode: str) -> list[Row]:
        """Return the medians of our own code in each step."""
        import emoguard

        steps = Steps()
        with emoguard.attach(self.llm, self.guard) as watch, steps.timed(watch.joint.front):
            self.generate(mode)
        return steps.rows(mode)


class Steps:
    """Times our code in each step, in µs: all of it that is wrapped around vLLM's own."""

    def __init__(self) -> None:
        self.worker: list[float] = []
        self.core: list[float] = []
        self.front: list[float] = []
        self._step = 0.0

    @contextmanager
    def timed(self, front: Any) -> Iterator[None]:
        """Time the steps of the worker, the EngineCore and the front end of a watch."""
        from unittest.mock import patch

        from emoguard_vllm import outputs, seams, steps, v1

        with ExitStack() as stack:

            def around(seam: Any, ours: Callable[..., Any], spent: Spent) -> None:
                owner = seams.Seam(seam.module, seam.name.rpartition(".")[0]).find()
                timed = outside(ours, seam.find().__wrapped__, spent)
                stack.enter_context(patch.object(owner, seam.name.rpartition(".")[2], timed))

            around(seams.V1_EXECUTE, v1._execute, self._add)  # noqa: SLF001
            around(seams.V1_PREPARE, v1._prepare_inputs, self._add)  # noqa: SLF001
            around(seams.V1_SAMPLE, steps.sample, self._end)
            around(seams.UPDATE, outputs.forward, self._pass_on)
            processor = front._engine.processor  # noqa: SLF001
            plain = partial(seams.OUTPUTS.find(), processor)
            timed = outside(front._process_outputs, plain, self._take)  # noqa: SLF001
            stack.enter_context(patch.dict(vars(processor), process_outputs=timed))
            yield

    def _add(self, spent: float, *_: Any) -> None:
        self._step += spent

    def _end(self, spent: float, *_: Any) -> None:
        self.worker.append(self._step + spent)
        self._step = 0.0

    def _pass_on(self, spent: float, _: Any, scheduled: Any, *__: Any) -> None:
        if scheduled.num_scheduled_tokens:
            self.core.append(spent / len(scheduled.num_scheduled_tokens))

    def _take(self, spent: float, each: Any, *_: Any) -> None:
        if each:
            self.front.append(spent / len(each))

    def rows(self, name: str) -> list[Row]:
        """Return the medians; the first step of each, which prepares the plan, is left out."""
        return [
            median(f"{name}_worker_us_a_step", self.worker[1:], "µs"),
            median(f"{name}_core_us_a_request_and_step", self.core[1:], "µs"),
            median(f"{name}_front_us_a_request_and_step", self.front[1:], "µs"),
        ]


def outside(
    ours: Callable[..., Any], plain: Callable[..., Any], spent: Spent
) -> Callable[..., Any]:
    """Return `ours` around `plain`; `spent` receives its time without that of `plain`."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        inner = 0.0

        def inside(*args: Any, **kwargs: Any) -> Any:
            nonlocal inner
            start = time.thread_time()
            done = plain(*args, **kwargs)
            inner = time.thread_time() - start
            return done

        start = time.thread_time()
        done = ours(inside, *args, **kwargs)
        spent(1e6 * (time.thread_time() - start - inner), *args)
        return done

    return timed


def bound(rows: int) -> list[Row]:
    """Return violations of the bound after the next norm's sum, over `rows` rows of each dtype."""
    import torch
    from emoguard_torch.steer import MOVES, gather
    from emoguard_vllm.buffers import Buffers, Planned

    from emoguard.steering.intervention import Intervention, Steering
    from emoguard.steering.plan import Plan

    hidden, share, at_once = 576, 0.1, 2000
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rng = np.random.default_rng(0)
        violations, most = 0, 0.0
        for _ in range(rows // at_once):
            directions = rng.normal(size=(2, hidden))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            shift = rng.normal(size=hidden) * 10.0 ** rng.uniform(-2, 2)
            low, high = np.array([-1, -np.inf], np.float32), np.array([1, 0.5], np.float32)
            gram = (directions @ directions.T).astype(np.float32)
            cast = directions.astype(np.float32)
            each = Intervention(0, shift.astype(np.float32), cast, low, high, gram, share)
            layer = gather([Steering(Plan(), share, (each,))], 0, "cpu", torch.zeros(1, MOVES))
            made = Buffers([0], at_once, 1, hidden, 1, torch.device("cpu"))
            part = torch.tensor(rng.normal(size=(at_once, hidden))).to(dtype)
            rest = torch.tensor(rng.normal(size=(at_once, hidden)) * 5).to(dtype)
            before = (part + rest).double()
            every = torch.arange(at_once)
            made.begin(at_once, Planned(every, torch.zeros_like(every), {0: layer}), [])
            made.see(part, rest, 0)
            dose = ((part + rest).double() - before).norm(dim=1) / before.norm(dim=1)
            violations += int((dose > share).sum())
            most = max(most, float(dose.max()))
        name = str(dtype).removeprefix("torch.")
        found.append(Row(f"{name}_violations_of_{rows}", violations, None, None, "rows"))
        found.append(Row(f"{name}_largest_dose", most, None, None, f"of {share}"))
    return found


if __name__ == "__main__":
    main()
