"""Joins an engine of vLLM to a watch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.probe import artifact
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.residuals import Residuals
from emoguard.runtime.joint import Sessions
from emoguard.runtime.session import Session
from emoguard.runtime.tokenizer import find_thinking
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard_vllm.callrequests import CallRequests
from emoguard_vllm.door import Door
from emoguard_vllm.engine import Engine
from emoguard_vllm.front import Front


class VllmJoint:
    """See `emoguard.runtime.joint.Joint`. It lives in the front end and directs the workers."""

    backend = "vllm"
    front: Front

    def __init__(self, engine: Engine) -> None:
        self.model = engine.model
        self.thinking = find_thinking(engine.tokenizer)
        self._engine = engine
        self._door = Door(engine)

    def identity(self, *, anew: bool = False) -> ModelIdentity:
        """Return the identity of the model the engine was started with."""
        return self._door.identity

    @contextmanager
    def hooked(self, site: Site) -> Iterator[Residuals]:
        """Have the workers read by the site's probe.

        Raises:
            EmoGuardError: an engine that was started for other layers or fewer labels.

        """
        layout, probe = self._engine.layout, site.probe
        missing = [layer for layer in probe.layers if layer not in layout.layers]
        if missing or len(site.read) > layout.labels:
            raise EmoGuardError(
                f"this engine was started for {layout.labels} labels at layers "
                f"{', '.join(map(str, layout.layers))}, and {probe.name} has {len(site.read)} at "
                f"{', '.join(map(str, probe.layers))}: name this probe in additional_config"
            )
        calibrations = [site.calibration] if site.calibration is not None else []
        blob = artifact.encode(probe, calibrations)
        answers = self._engine.call("start", blob, site.identity.digest, list(site.read))
        hooked = {layer for answer in answers for layer in answer or ()}
        if missing := [layer for layer in probe.layers if layer not in hooked]:
            raise EmoGuardError(
                f"no worker has a hook at layers {', '.join(map(str, missing))}: is EmoGuard "
                "installed where the workers run, and allowed in VLLM_PLUGINS?"
            )
        try:
            yield self._door
        finally:
            with contextlib.suppress(Exception):  # an engine that was shut down
                self._engine.call("stop")

    @contextmanager
    def wrapped(self, sessions: Sessions) -> Iterator[None]:
        """Follow the engine's requests."""
        requests = CallRequests(self.model)
        self.front = Front(self._engine, sessions, self._adapted, requests.next)
        with requests.wrapped(), self.front.wrapped():
            yield

    def refuse(self, steering: Steering) -> None:
        """Raise EmoGuardError for steering that this engine does not support."""
        config = self._engine.config
        if config.compilation_config.cudagraph_mode and "cuda" in str(config.device_config.device):
            raise EmoGuardError(
                "this engine replays CUDA graphs, which no plan can enter yet: start it with "
                '--compilation-config \'{"cudagraph_mode": "NONE"}\' to steer'
            )

    def settle(self, session: Session) -> None:
        """Do nothing: rows come with their tokens."""

    def release(self, session: Session) -> None:
        """Do nothing: the workers release a sequence when the scheduler ends it."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, "" without a tokenizer."""
        tokenizer = self._engine.tokenizer
        if tokenizer is None:
            return ""
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _adapted(self, lora: Any) -> ModelIdentity | None:
        """Return the identity under a LoRA adapter, None without one."""
        if lora is None:
            return None
        name = hashlib.sha256(f"{lora.lora_name} {lora.lora_path}".encode()).hexdigest()
        return dataclasses.replace(self._door.identity, adapters=(f"{name[:16]}",))
