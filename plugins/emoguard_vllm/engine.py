"""Wraps one engine for its front end: a `vllm.LLM`, or an `AsyncLLM` in an event loop."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from typing import Any

from vllm import LLM, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from emoguard.errors import EmoGuardError
from emoguard_vllm.processes import CALL
from emoguard_vllm.settings import KEY, Layout, Settings
from emoguard_vllm.wire import Order

NOT_STARTED = (
    "this engine was started without EmoGuard, whose hooks have to be there before the model is "
    'compiled: start it with additional_config={"emoguard": {}}, or on the command line with '
    "--additional-config '{\"emoguard\": {}}'"
)

DOOR = f"emoguard-door-{secrets.token_hex(8)}-"
"""Prefix of the ids of the door's own requests, which are not followed; clients cannot guess it."""


class Engine:
    """The parts of an engine that the plug-in talks to; `model` is what users generate with.

    Raises:
        EmoGuardError: another object, an engine without EmoGuard's configuration, an `AsyncLLM`
            without its event loop.

    """

    def __init__(
        self, model: Any, loop: asyncio.AbstractEventLoop | None = None, tokenizer: Any = None
    ) -> None:
        if isinstance(model, LLM):
            self._inner: Any = model.llm_engine
        elif isinstance(model, AsyncLLM):
            self._inner = model
            if loop is None:
                raise EmoGuardError(
                    "an AsyncLLM runs in an event loop: attach from another thread with loop=, as "
                    "in await asyncio.to_thread(emoguard.attach, engine, guard, loop="
                    "asyncio.get_running_loop())"
                )
        else:
            raise EmoGuardError(
                f"wanted a vllm.LLM or an AsyncLLM, got {type(model).__qualname__}: pass the "
                "object whose generate you call"
            )
        self.model = model
        self._loop = loop
        self._tokenizer = tokenizer
        self.config = self._inner.vllm_config
        settings = Settings.of(self.config.additional_config)
        layout = Layout.of(self.config.additional_config)
        if settings is None or layout is None:
            raise EmoGuardError(NOT_STARTED)
        self.settings, self.layout = settings, layout
        self._numbers = itertools.count()

    @property
    def processor(self) -> Any:
        """Return the processor that turns outputs of the EngineCore into those for users."""
        return self._inner.output_processor

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer, None for an engine that was started without one."""
        return self.processor.tokenizer if self._tokenizer is None else self._tokenizer

    @property
    def runs_ahead(self) -> bool:
        """Return whether workers place the rows of a step before they know the last tokens."""
        ahead = self.config.scheduler_config.async_scheduling
        return bool(ahead or self.config.use_v2_model_runner)

    def call(self, what: str, *args: Any) -> list[Any]:
        """Call a function on every worker; return their results."""
        if self._loop is None:
            answers = self.model.collective_rpc(CALL, args=(what, *args))
        else:
            answers = self._wait(self.model.collective_rpc(CALL, args=(what, *args)))
        return list(answers)

    def residuals(self, token_ids: Sequence[int]) -> list[Any]:
        """Run a text through the model as a request of its own; return each worker's rows."""
        name = f"{DOOR}{id(self)}-{next(self._numbers)}-"
        order = Order(door=True).data()
        sampling = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            extra_args={KEY: order},
            skip_reading_prefix_cache=True,
            detokenize=False,
        )
        prompt = {"prompt_token_ids": list(token_ids)}
        if self._loop is None:
            name = self._run(name, prompt, sampling)
        else:
            self._wait(self._run_async(name, prompt, sampling))
        return self.call("take", name)

    def _run(self, name: str, prompt: Any, sampling: Any) -> str:
        """Generate by the engine's own loop; others' requests continue meanwhile.

        Raises:
            EmoGuardError: requests that wait in the engine, whose outputs would be lost.

        """
        if self._inner.has_unfinished_requests():
            raise EmoGuardError(
                "the engine has requests in progress: read residuals when they have ended"
            )
        request_id: str = self._inner.add_request(name, prompt, sampling)
        while self._inner.has_unfinished_requests():
            self._inner.step()
        return request_id

    async def _run_async(self, name: str, prompt: Any, sampling: Any) -> None:
        async for _ in self.model.generate(prompt, sampling, name):
            pass

    def _wait(self, coroutine: Any) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
