"""Hooks a model's blocks: each hook reads into, and steers, the run of its thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from emoguard_torch import compiled
from emoguard_torch.compiled import forget_compiled
from emoguard_torch.kernels import fused_for
from emoguard_torch.lead import Lead
from emoguard_torch.packed import steer_at
from emoguard_torch.read import Weights, read
from emoguard_torch.steer import MOVES, Batch, Layer, acting, gather, steer
from emoguard_torch.tape import Tape
from emoguard_torch.tensors import hidden_state

from emoguard.runtime.patch import left_out
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard_transformers.blocks import find_blocks, find_body
from emoguard_transformers.run import Run
from emoguard_transformers.step import Step

Fail = Callable[[Run | Step, BaseException, Literal["reading", "steering"]], None]


class Hooks:
    """Hooks on the blocks of `model` that the probe of `site` reads.

    `devices` has one device per layer; `fail` is called with an error in a hook. `run` is the run
    that hooks of this thread write into, None outside a generation.
    """

    def __init__(self, model: Any, site: Site, devices: Sequence[torch.device], fail: Fail) -> None:
        self.devices = list(devices)
        self._model = model
        self._site = site
        self._fail = fail
        self._free: dict[tuple[str, tuple[int, ...]], list[torch.Tensor]] = {}
        self._local = threading.local()
        self._plans: tuple[list[int], Sequence[Steering], dict[int, Layer]] | None = None

    @property
    def run(self) -> Run | None:
        """Return the run of this thread; one that is closed takes in nothing more.

        At the end of a stream, the caller may already generate the next response.
        """
        run = self.outermost
        return None if run is None or run.closed else run

    @property
    def outermost(self) -> Run | None:
        """Return the run of this thread, also one that is closed."""
        run: Run | None = getattr(self._local, "run", None)
        return run

    @contextmanager
    def writing(self, run: Run | Step | None) -> Iterator[None]:
        """Route the hooks of this thread to `run` in this block."""
        before = self.outermost
        self._local.run = run
        try:
            yield
        finally:
            self._local.run = before

    @contextmanager
    def added(self) -> Iterator[None]:
        """Put the hooks on the model in this block; compiled code of other hooks is dropped."""
        model, readout = self._model, self._site.readout
        body, blocks = find_body(model), find_blocks(model)
        with ExitStack() as undo:
            forget_compiled(model, body, blocks)
            undo.callback(forget_compiled, model, body, blocks)
            for index, layer in enumerate(readout.layers):
                weights = Weights.of(readout, index, self.devices[index])
                undo.enter_context(_hooked(blocks[layer], self._hook(index, weights)))
            yield

    def begin(self, run: Run, *, chunked: bool) -> None:
        """Give a run whose sessions are open buffers to write to, and the steering of its plans."""
        rows = len(run.sessions)
        try:
            run.steering = self._steering(run, rows, run.positions if chunked else None)
        except Exception as error:  # noqa: BLE001  (the response is not steered, or ends)
            self._fail(run, error, "steering")
        try:
            pending = self._buffer("pending", (len(self.devices), rows, len(self._site.read)))
            run.tape = Tape(pending, run.steering.moves if run.steering else None)
        except Exception as error:  # noqa: BLE001  (the response must not notice)
            self._fail(run, error, "reading")

    def lay(self, step: Step) -> None:
        """Give a pass over one packed row room to write to, and the steering of its plans."""
        device = self.devices[-1]
        try:
            step.steering = self._packed(step)
        except Exception as error:  # noqa: BLE001  (these responses are not steered, or end)
            self._fail(step, error, "steering")
        shape = (len(self.devices), len(step.places.read), len(self._site.read))
        pending = torch.full(shape, torch.nan, device=device)
        step.tape = Tape(pending, step.steering.moves if step.steering else None)

    def end(self, run: Run) -> None:
        """Take the buffers of a run back."""
        tape, run.tape, run.steering = run.tape, None, None
        if tape is None:
            return
        for use, buffer in (("pending", tape.pending), ("moves", tape.moves)):
            if buffer is not None:
                self._free[use, tuple(buffer.shape)].append(buffer)

    def _hook(self, index: int, weights: Weights) -> Callable[..., Any]:
        local = self._local

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            run = getattr(local, "run", None)
            if run is None or run.aside:
                return None
            compiling = torch.compiler.is_compiling()
            tape, places = run.tape, run.places
            if tape is not None and not run.failed:
                at = None if places is None else places.read
                if compiling:
                    read(tape.pending[index], weights, output, at)
                else:
                    try:
                        read(tape.pending[index], weights, output, at)
                    except Exception as error:  # noqa: BLE001  (the response must not notice)
                        self._fail(run, error, "reading")
            layer = run.steering.layers.get(index) if run.steering is not None else None
            if layer is None or run.steering_failed:
                return None
            # Only a pass over several positions uses the number of tokens before it: code would be
            # compiled again for each count.
            steps = run.steps if hidden_state(output).shape[1] > 1 else 0
            if compiling:
                return steer(layer, output, steps)
            try:
                if places is not None:
                    return steer_at(layer, output, places)
                return steer(layer, output, steps)
            except Exception as error:  # noqa: BLE001  (the rest is not steered, or ends)
                self._fail(run, error, "steering")
                return None

        return hook

    def _buffer(self, use: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a buffer full of NaN, reused for the same `use` after each run.

        Its address stays the same, so that CUDA graphs need not be recorded anew.
        """
        free = self._free.setdefault((use, shape), [])
        # Never an inference tensor: the next generation may run outside inference mode.
        with torch.inference_mode(mode=False):
            try:
                buffer = free.pop()  # another thread may take the last one
            except IndexError:
                buffer = torch.empty(shape, device=self.devices[-1])
        compiled.hold_still(buffer)
        return buffer.fill_(torch.nan)

    def _steering(self, run: Run, rows: int, chunked: int | None) -> Batch | None:
        """Put the plans of a batch onto the devices; None without any."""
        probed = self._site.readout.layers
        plans = [session.steering for session in run.sessions]
        indices = acting(plans, probed)
        if not indices:
            return None
        moves = self._buffer("moves", (len(indices), rows, MOVES))
        lead = self._lead(run, rows, moves.device)
        layers = {}
        for index, place in zip(indices, moves, strict=True):
            compiled.hold_still(place)
            device = self.devices[index]
            layer = gather(plans, probed[index], device, place, chunked, lead=lead)
            # A kernel cannot write to another device, where a model is spread over several.
            layer.fused = fused_for(device) if device == moves.device else None
            layers[index] = layer
        return Batch(layers, moves, lead)

    def _packed(self, step: Step) -> Batch | None:
        """Put the plans of a packed row onto the devices; None if they move nothing in it.

        A pass mostly steers the same sequences as the last one: their plans stay there.
        """
        if not len(step.places.moved):
            return None
        plans = step.plans
        if self._plans is None or self._plans[0] != list(map(id, plans)):
            self._plans = list(map(id, plans)), plans, self._layers(plans)
        layers = self._plans[2]
        shape = (len(layers), len(step.places.moved), MOVES)
        moves = torch.full(shape, torch.nan, device=self.devices[-1])
        by_layer = zip(layers.items(), moves, strict=True)
        return Batch({index: layer.writing(place) for (index, layer), place in by_layer}, moves)

    def _layers(self, plans: Sequence[Steering]) -> dict[int, Layer]:
        """Return the interventions of plans, one row for each, by the number of the layer."""
        probed, layers = self._site.readout.layers, {}
        for index in acting(plans, probed):
            device = self.devices[index]
            moves = torch.empty((len(plans), MOVES), device=self.devices[-1])
            layer = layers[index] = gather(plans, probed[index], device, moves)
            layer.fused = fused_for(device) if device == moves.device else None
        return layers

    def _lead(self, run: Run, rows: int, device: torch.device) -> Lead | None:
        """Return the positions that steering leaves alone, None if it comes to none of them."""
        if run.prompts is None:
            return None
        tokens = run.prompts.tokens(rows)
        with torch.inference_mode(mode=False):
            lead = Lead.of(tokens, run.prompts.leads(tokens), run.prompts.length, device)
        for tensor in (lead.counts, lead.first, lead.end):
            compiled.hold_still(tensor)
        steered = [session.steering for session in run.sessions]
        return lead if lead.grows or any(each and each.plan.prompt for each in steered) else None


@contextmanager
def _hooked(block: torch.nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """Have a forward hook on a block, not on copies of the block, in this block."""

    def undo(state: dict[str, Any]) -> None:
        others = ((key, each) for key, each in state["_forward_hooks"].items() if each is not hook)
        state["_forward_hooks"] = OrderedDict(others)

    handle = block.register_forward_hook(hook)
    try:
        with left_out(block, undo):
            yield
    finally:
        handle.remove()
