"""Identifies the file that a model object holds now, reading content if a mark has changed."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from emoguard_torch.content import Marked, Marks, hash_tensors
from torch.nn.modules.module import register_module_module_registration_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity
from emoguard.runtime.interrupts import is_interrupt
from emoguard_transformers.adapters import soft_prompt
from emoguard_transformers.identity import Weights, identify

log = logging.getLogger("emoguard")

UNKNOWN = "unknown"
"""Stands for the content of weights that cannot be read: no calibration matches it."""


class Structure:
    """The modules of a model, and the parameters and persistent buffers in them, as objects."""

    def __init__(self, model: torch.nn.Module) -> None:
        modules = list(model.modules())
        self.places = set(map(id, modules))
        self._children = [m._modules for m in modules if m._modules]  # noqa: SLF001
        self._modules = list(chain.from_iterable(map(dict.values, self._children)))
        slots = [slot for module in modules for slot in _slots(module)]
        self._owners = [owner for owner, _ in slots]
        self._names = [name for _, name in slots]
        self._tensors = [owner[name] for owner, name in slots]
        self._dicts = [m._parameters for m in modules if m._parameters]  # noqa: SLF001
        self._entries = sum(map(len, self._dicts))

    def stands(self) -> bool:
        """Return whether the model still has exactly these parts."""
        return (
            list(chain.from_iterable(map(dict.values, self._children))) == self._modules
            and all(map(operator.is_, map(dict.get, self._owners, self._names), self._tensors))
            and sum(map(len, self._dicts)) == self._entries
        )


def _slots(module: torch.nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield a module's tensors and their places, without those accelerate loads for a moment."""
    transient = module._non_persistent_buffers_set  # noqa: SLF001
    for owner in (module._parameters, module._buffers):  # noqa: SLF001
        for name, tensor in owner.items():
            if name not in transient and not (tensor is not None and tensor.is_meta):
                yield owner, name


class Look:
    """The identity of a model at one moment, and the marks that show a change.

    Raises:
        EmoGuardError: as `identify`.

    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.structure = Structure(model)
        weights = Weights.of(model)
        self._tokenizer = tokenizer
        self._marked = Marked(tensor for _, tensor in weights.tensors)
        self._adapters = weights.adapters
        self._marks = self._now()
        acting = self._adapters.marks()
        self._known = acting, identify(model, tokenizer, weights)

    def holds(self) -> bool:
        """Return whether base weights, template and modules are unchanged."""
        return self.structure.stands() and self._now() == self._marks

    def identity(self) -> ModelIdentity:
        """Return the identity with the adapters active now."""
        acting = self._adapters.marks()
        known, identity = self._known
        if acting != known:
            identity = replace(identity, adapters=self._adapters.names())
            self._known = acting, identity
        return identity

    def _now(self) -> Marks:
        template = getattr(self._tokenizer, "chat_template", None)
        return ([template], self._adapters.merged(), *self._marked.marks())


class Held:
    """The file that `model` holds: `identity` compares marks, and reads content if one changed.

    Marks are the modules, parameters and persistent buffers as objects, address, size, dtype and
    version counter of each, the adapters with their switches and scales, and the chat template.
    Writes through `.data` leave none, but those of optimisers and of PEFT are noticed: by
    `listening`, and by PEFT's record of merged adapters.

    Raises:
        EmoGuardError: as `identify`.

    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._look: Look | None = Look(model, tokenizer)
        self._last = self._look.identity()
        self._warned = False
        self._heard = self._looked_after = 0
        self._soft: tuple[torch.nn.Module, Marks, str] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notice optimiser steps and modules put into the model in this block.

        Fused optimisers count no version, and PEFT merges through `.data` before it puts the layer
        back that was there at first.
        """
        handles = (
            register_optimizer_step_post_hook(self._stepped),
            register_module_module_registration_hook(self._placed),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _stepped(self, *_: Any) -> None:
        self._heard += 1

    def _placed(self, module: torch.nn.Module, _name: str, _child: Any) -> None:
        if self._look is not None and id(module) in self._look.structure.places:
            self._heard += 1

    def identity(self, *, anew: bool = False) -> ModelIdentity:
        """Return the present identity; `anew` reads content even if no mark changed.

        Never raises. Weights that were sharded meanwhile are taken to be unchanged; other weights
        that can no longer be read count as a file without a calibration.
        """
        try:
            return self._now(anew=anew)
        except Exception as error:  # the response must not notice
            if is_interrupt(error):
                raise
            if not self._warned:
                self._warned = True
                log.warning("the model's weights cannot be looked at any more: %s", error)
            self._look = None
            if not isinstance(error, EmoGuardError):
                self._last = replace(self._last, weights=UNKNOWN, content=UNKNOWN)
            return self._last

    def _now(self, *, anew: bool) -> ModelIdentity:
        look, heard = self._look, self._heard
        if anew or look is None or heard != self._looked_after or not look.holds():
            self._looked_after = heard
            self._look = look = Look(self._model, self._tokenizer)
        identity = self._last = look.identity()
        soft = soft_prompt(self._model)
        if soft is None:
            return identity
        return replace(identity, adapters=(*identity.adapters, self._prompt(*soft, anew=anew)))

    def _prompt(self, kind: str, encoder: torch.nn.Module, *, anew: bool) -> str:
        """Return the content of a soft prompt, kept while its marks stay as they are."""
        tensors = list(encoder.state_dict(keep_vars=True).items())
        marks, last = Marked(t for _, t in tensors).marks(), self._soft
        if anew or last is None or last[0] is not encoder or last[1] != marks:
            self._soft = last = encoder, marks, f"{kind} {hash_tensors(tensors)[:16]}"
        return last[2]
