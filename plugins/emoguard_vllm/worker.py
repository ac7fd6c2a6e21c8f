"""Runs EmoGuard in a worker: hooks on the model, orders of requests, rows of each step."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from emoguard_torch.steer import MOVES, Layer, gather
from numpy.typing import NDArray

from emoguard.errors import EmoGuardError
from emoguard.probe import artifact
from emoguard.probe.calibration import Calibration
from emoguard.probe.probe import Probe
from emoguard.runtime.attention import sink_length
from emoguard.steering.intervention import Steering
from emoguard.steering.plan import Plan
from emoguard.steering.prepare import prepare
from emoguard_vllm import op
from emoguard_vllm.blocks import find_blocks
from emoguard_vllm.buffers import KEPT, Buffers, Planned, pick
from emoguard_vllm.settings import KEY, Layout
from emoguard_vllm.slots import Slots
from emoguard_vllm.wire import Order, Step

log = logging.getLogger("emoguard")


@dataclass(eq=False)
class Followed:
    """One followed sequence: its order, the plan made ready, the error in its steering."""

    order: Order
    steering: Steering | None = None
    key: str = ""
    broken: str | None = None


Moved = tuple[str, range]
"""A plan, and the rows of a step that it moves."""


@dataclass(slots=True)
class Part:
    """The rows of one sequence in a step: `count` of them from row `start` on.

    The first of them is at position `past` of the sequence; `reads` are the rows that tokens may be
    chosen from.
    """

    request: str
    start: int
    count: int
    past: int
    reads: range


@dataclass(eq=False)
class Gathered:
    """The rows of a step on their way to the host; the rest as in a `Step`."""

    spans: Mapping[str, range]
    ready: Callable[[], NDArray[np.float32]]
    reading: str | None
    steering: Mapping[str, str]

    def step(self) -> Step:
        """Wait for the rows, and return them."""
        return Step(self.ready(), self.spans, self.reading, self.steering)


class Worker:
    """EmoGuard's part beside one model runner. Both runners drive it in the same order:

    `enter` with the scheduler's news, `place` where the rows lie, the forward pass, `gather`.
    """

    upstream: torch.Tensor | None = None
    """Readings and moves of earlier pipeline stages in this step: (tokens, labels + 3)."""

    def __init__(self, model: Any, layout: Layout, hidden: int, tokens: int, device: Any) -> None:
        blocks = find_blocks(model)
        here = [layer for layer in layout.layers if layer in blocks]
        self.buffers = Buffers(
            here,
            tokens,
            layout.labels,
            hidden,
            tokens if layout.door else KEPT,
            torch.device(device),
            fail=self._steering_broke,
        )
        self._hooks = [blocks[layer].register_forward_hook(op.Hook(layer)) for layer in here]
        self._slots = Slots(layout.slots)
        self._sequences: dict[str, Followed] = {}
        self._prepared: dict[str, Steering] = {}
        self._acting: tuple[tuple[str, ...], dict[int, Layer]] = ((), {})
        self._placed: tuple[list[Moved], Planned | None] = ([], None)
        self._labels = 0
        self._columns: torch.Tensor | None = None
        self._lost: str | None = None
        self._spans: dict[str, range] = {}
        self._reads: list[int] = []
        self._doors_here: list[tuple[str, int]] = []
        self._doors: dict[str, list[NDArray[np.float32]]] = {}
        self._probe: Probe | None = None
        self._calibrations: dict[str, Calibration] = {}
        self.model = model
        op.listen(self.buffers.see)

    # What the front end asks for, by name.

    def start(self, probe: bytes, site: str, labels: Sequence[str]) -> list[int]:
        """Read by a probe file from now on, in the scale of the calibration of `site`.

        `site` is the digest of a model identity, `labels` are those that are read. Return the
        layers of which this process holds the hooks.
        """
        self._probe, calibrations = artifact.loads(probe)
        self._calibrations = {each.identity.digest: each for each in calibrations}
        self._acting, self._placed = ((), {}), ([], None)  # directions are the probe's
        self.buffers.load(self._probe.fold(self._calibrations.get(site), tuple(labels)))
        self._labels, wide = len(labels), self.buffers.labels
        sent = [*range(self._labels), *range(wide, wide + MOVES)]
        unused = self._labels < wide
        self._columns = torch.tensor(sent, device=self.buffers.device) if unused else None
        return list(self.buffers.layers)

    def stop(self) -> None:
        """Follow nothing any more."""
        for request in list(self._sequences):
            self._leave(request)
        self._doors.clear()

    def take(self, request: str) -> tuple[list[int], list[bytes]]:
        """Return the residuals for a request of the door: layers, and (tokens, hidden) of each."""
        for name in [name for name in self._doors if name.startswith(request)]:
            parts = self._doors.pop(name)
            if parts:
                whole = np.concatenate(parts, axis=1)
                return list(self.buffers.layers), [layer.tobytes() for layer in whole]
        return [], []

    # What a runner does in each step.

    def enter(self, new: Iterable[tuple[str, Any]], ended: Iterable[str]) -> None:
        """Take the scheduler's news: requests with their parameters, and ids that ended."""
        op.listen(self.buffers.see)
        self._lost = None
        for request in ended:
            self._leave(request)
        for request, sampling in new:
            extra = getattr(sampling, "extra_args", None) or {}
            if isinstance(extra.get(KEY), dict) and request not in self._sequences:
                self._enter(request, Order.of(extra[KEY]))

    def place(self, rows: int, parts: Sequence[Part], tokens: Callable[[int], Any]) -> None:
        """Place the rows of a step; `tokens(n)` are the token ids of part number n."""
        self._doors_here = []
        self._spans, self._reads = {}, []
        keep: list[int] = []
        moved: list[Moved] = []
        for number, part in enumerate(parts):
            sequence = self._sequences.get(part.request)
            if sequence is None:
                continue
            order = sequence.order
            if order.door:
                self._doors_here.append((part.request, part.count))
                keep += range(part.start, part.start + part.count)
            else:
                before = len(self._reads)
                self._reads += part.reads
                self._spans[part.request] = range(before, len(self._reads))
            if sequence.steering is not None and sequence.broken is None:
                first = order.first
                if order.sink:
                    first = max(first, sink_length(list(tokens(number))))
                begin, end = part.start + max(first - part.past, 0), part.start + part.count
                if begin < end:
                    moved.append((sequence.key, range(begin, end)))
        self.buffers.begin(rows, self._planned(moved), keep[: self.buffers.room])

    def gather(self) -> Gathered | None:
        """Return the rows that tokens of this step are chosen from; None if none are needed."""
        if self._lost is not None:
            return self.lost()
        self._keep()
        if not self._reads:
            return None
        rows = self.buffers.rows(self._reads)
        if self.upstream is not None:
            rows = rows + pick(self.upstream, 0, self._reads)
        if self._columns is not None:
            rows = rows.index_select(1, self._columns)
        return Gathered(self._spans, _home(rows), self.buffers.broken.reading, self._broken())

    def relayed(self, rows: int) -> torch.Tensor:
        """Return z and moves of all rows of this step, for the next pipeline stage: (rows, n).

        A stage that passes them on does not `gather`.
        """
        self._keep()
        own = self.buffers.rows(range(rows))
        return own if self.upstream is None else own + self.upstream[:rows]

    def break_off(self, error: str) -> None:
        """Report every followed sequence as broken, after an error of EmoGuard's in a step."""
        self._lost = error
        self.buffers.planned = None
        self._steering_broke(error)

    def lost(self) -> Gathered:
        """Return the result of `gather` for a step whose rows are lost to a fault of EmoGuard's."""
        width = (self._labels or self.buffers.labels) + MOVES
        nothing = np.zeros((0, width), np.float32)
        none = dict.fromkeys(self._sequences, range(0))
        return Gathered(none, lambda: nothing, self._lost, self._broken())

    def _broken(self) -> dict[str, str]:
        return {name: each.broken for name, each in self._sequences.items() if each.broken}

    def _enter(self, request: str, order: Order) -> None:
        sequence = Followed(order)
        self._sequences[request] = sequence
        if order.door:
            self._doors[request] = []
        if order.plan is None:
            return
        sequence.key = json.dumps([order.plan, order.bound, order.calibration], sort_keys=True)
        try:
            self._slots.take(sequence.key)
        except EmoGuardError as error:  # the front end counts them, too
            sequence.broken, sequence.key = str(error), ""
            return
        try:
            sequence.steering = self._prepare(sequence.key, order)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            sequence.broken = f"{type(error).__name__}: {error}"

    def _prepare(self, key: str, order: Order) -> Steering:
        if key not in self._prepared:
            if self._probe is None:
                raise EmoGuardError("no probe was sent to this worker: attach again")
            calibration = self._calibrations.get(order.calibration)
            self._prepared[key] = prepare(
                Plan.parse(order.plan), self._probe, calibration, order.bound
            )
        return self._prepared[key]

    def _leave(self, request: str) -> None:
        sequence = self._sequences.pop(request, None)
        if sequence is not None and sequence.key and self._slots.leave(sequence.key):
            self._prepared.pop(sequence.key, None)

    def _planned(self, moved: list[Moved]) -> Planned | None:
        """Return the rows to move and their interventions.

        Both are kept while they stay as they are: sequences that decode keep their rows.
        """
        if moved != self._placed[0]:
            self._placed = moved, self._plan(moved) if moved else None
        return self._placed[1]

    def _plan(self, moved: Sequence[Moved]) -> Planned:
        keys = tuple(sorted({key for key, _ in moved}))
        device = self.buffers.device
        if keys != self._acting[0]:
            plans = [self._prepared[key] for key in keys]
            none = torch.zeros(len(plans), MOVES, device=device)
            here = {layer for plan in plans for layer in plan.layers} & {*self.buffers.layers}
            self._acting = keys, {layer: gather(plans, layer, device, none) for layer in here}
        rows = [row for _, span in moved for row in span]
        owners = [keys.index(key) for key, span in moved for _ in span]
        return Planned(
            torch.tensor(rows, device=device), torch.tensor(owners, device=device), self._acting[1]
        )

    def _steering_broke(self, error: str) -> None:
        """Stop steering every sequence: after an error in a step, some layers were not moved."""
        for sequence in self._sequences.values():
            if sequence.steering is not None:
                sequence.broken = sequence.broken or error

    def _keep(self) -> None:
        """Keep the residuals of the requests that ask for them."""
        begin = 0
        for request, count in self._doors_here:
            kept = self.buffers.kept[:, begin : begin + count].float().cpu().numpy()
            if request in self._doors:  # nobody has taken them yet
                self._doors[request].append(kept.copy())
            begin += count


def _home(rows: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """Start to copy rows to the host; return a function that waits and returns them."""
    if not rows.is_cuda:
        host = rows.numpy()
        return lambda: host
    pinned = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    pinned.copy_(rows, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> NDArray[np.float32]:
        done.synchronize()
        return pinned.numpy()

    return wait
