"""Installs EmoGuard in every process of vLLM: the API server, the EngineCore, the workers."""

from __future__ import annotations

import logging
from typing import Any

from emoguard.runtime.disabled import is_disabled
from emoguard_vllm import configuration, outputs, seams, v1, v2
from emoguard_vllm.runner import of

log = logging.getLogger("emoguard")

CALL = "emoguard"
"""The method of a worker that the front end calls: what to do, by name, and its arguments."""


def register() -> None:
    """Put the hooks in; see `emoguard_vllm.register`."""
    if is_disabled():
        return
    try:
        seams.wrap(seams.CONFIGURE, configuration.configure)
        seams.wrap(seams.UPDATE, outputs.forward)
        seams.wrap(seams.OUTPUTS, outputs.strip)
        seams.wrap(seams.MAKE_OUTPUT, outputs.note_finish)
        v1.register()
        v2.register()
        setattr(seams.WORKER.find(), CALL, call)
    except Exception as error:  # noqa: BLE001  (vLLM would not start)
        log.warning("EmoGuard does not fit this vLLM: %s: %s", type(error).__name__, error)


def call(worker: Any, what: str, *args: Any) -> Any:
    """Run a command of the front end beside a worker's model runner."""
    own = of(worker.model_runner)
    return None if own is None else getattr(own, what)(*args)
