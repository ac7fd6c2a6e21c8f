"""Joins EmoGuard to vLLM: `vllm.LLM`, `AsyncLLM` and `vllm serve`.

vLLM calls `register` in each of its processes. An engine is read if it was started with
`additional_config={"emoguard": {…}}`, because hooks have to be there before the model is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from emoguard.guard import Guard
    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.speaker import Speaker
    from emoguard_vllm.vllm_joint import VllmJoint

__all__ = [
    "BATCHES",
    "FORMAT",
    "Middleware",
    "hint",
    "joint",
    "open_residuals",
    "open_speaker",
    "opens",
    "own_guard",
    "register",
]

FORMAT = "a Transformers folder"
BATCHES = False


def register() -> None:
    """Put EmoGuard's hooks into vLLM in this process; `vllm.general_plugins` names this function.

    Cheap, idempotent, and never raises: vLLM would not start. A misfit is reported when an engine
    is configured.
    """
    from emoguard_vllm import processes

    processes.register()


def open_residuals(
    model: Any, loop: asyncio.AbstractEventLoop | None = None, tokenizer: Any = None
) -> Residuals:
    """Return the offline door into a `vllm.LLM` or an `AsyncLLM`; options are those of `joint`."""
    from emoguard_vllm.door import Door
    from emoguard_vllm.engine import Engine

    return Door(Engine(model, loop, tokenizer))


def joint(
    model: Any, loop: asyncio.AbstractEventLoop | None = None, tokenizer: Any = None
) -> VllmJoint:
    """Return the joint to a `vllm.LLM` or an `AsyncLLM`.

    `loop` is the event loop that an `AsyncLLM` runs in. Attach to one from another thread:
    `await asyncio.to_thread(emoguard.attach, engine, guard, loop=asyncio.get_running_loop())`.
    `tokenizer` is for engines that were started without theirs.

    Raises:
        EmoGuardError: an engine that was started without EmoGuard's configuration.

    """
    from emoguard_vllm.engine import Engine
    from emoguard_vllm.vllm_joint import VllmJoint

    return VllmJoint(Engine(model, loop, tokenizer))


def own_guard(
    model: Any, loop: asyncio.AbstractEventLoop | None = None, tokenizer: Any = None
) -> Guard | None:
    """Return the guard of the probe and policy that an engine was started with.

    Without a probe, the policy goes with the shipped one that fits; None if it names neither.

    Raises:
        EmoGuardError: the probe or the policy is not sound, or no shipped probe fits.

    """
    from emoguard.guard import Guard
    from emoguard.runtime.attach import shipped
    from emoguard_vllm.engine import Engine

    settings = Engine(model, loop, tokenizer).settings
    if settings.probe is not None:
        return Guard.load(settings.probe, settings.policy)
    if settings.policy is None:
        return None
    guard = shipped(open_residuals(model, loop, tokenizer))
    return Guard(guard.probe, guard.calibrations, settings.policy)


def opens(path: Path) -> bool:  # noqa: ARG001
    """Return False: unless vLLM is requested, Transformers opens the folders that it runs."""
    return False


def hint(path: Path) -> str:  # noqa: ARG001
    """Return "": other plug-ins give the advice."""
    return ""


def open_speaker(path: Path, threads: int | None = None) -> Speaker:  # noqa: ARG001
    """Start an engine on a folder that `save_pretrained` wrote, all of whose layers can be read.

    Raises:
        EmoGuardError: it is no folder of a model.
        ValueError, RuntimeError: vLLM cannot run it.

    """
    from emoguard_vllm.speaker import VllmSpeaker

    return VllmSpeaker.load(path)


def __getattr__(name: str) -> Any:
    if name == "Middleware":  # `vllm serve --middleware emoguard_vllm.Middleware`
        from emoguard_vllm.serve import Middleware

        return Middleware
    raise AttributeError(f"module {__name__} has no attribute {name}")
