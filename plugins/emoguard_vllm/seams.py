"""Lists every place where EmoGuard reaches into vLLM: the one file to read when vLLM changes.

Apart from this file, only `v1` and `v2` use private names of a model runner, which are listed here,
too.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TESTED = ((0, 32), (0, 33))
"""The oldest release that is supported, and the first that is not tested."""

RELEASES = "vllm>=" + ",<".join(".".join(map(str, release)) for release in TESTED)
"""The tested releases, as pip takes them."""

Around = Callable[..., Any]
"""Takes the original function, and the arguments of a call, `self` first."""


@dataclass(frozen=True)
class Seam:
    """A function or class of vLLM that is used, with the parameters that are relied upon.

    `names` must occur in the source: of a class, attributes that are set on instances.
    """

    module: str
    name: str
    parameters: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def find(self) -> Any:
        """Return the function or class itself."""
        target: Any = importlib.import_module(f"vllm.{self.module}")
        for part in self.name.split("."):
            target = inspect.getattr_static(target, part)
        return target

    def missing(self) -> str | None:
        """Return the deviation from this, None if there is none."""
        place = f"vllm.{self.module}.{self.name}"
        try:
            target = self.find()
        except (ImportError, AttributeError):
            return place
        if self.parameters:
            known = inspect.signature(_plain(target)).parameters
            for name in self.parameters:
                if name not in known:
                    return f"{place}({name})"
        if self.names:
            kinds = target.__mro__ if isinstance(target, type) else (target,)
            ours = [kind for kind in kinds if kind.__module__.startswith("vllm.")]
            source = "".join(map(inspect.getsource, ours))
            for name in self.names:
                if name not in source:
                    return f"{place}.{name}"
        return None


CONFIGURE = Seam("engine.arg_utils", "EngineArgs.create_engine_config", ("self",))
UPDATE = Seam(
    "v1.core.sched.scheduler",
    "Scheduler.update_from_output",
    ("self", "scheduler_output", "model_runner_output"),
)
OUTPUTS = Seam(
    "v1.engine.output_processor",
    "OutputProcessor.process_outputs",
    ("self", "engine_core_outputs"),
)
MAKE_OUTPUT = Seam(
    "v1.engine.output_processor",
    "RequestState.make_request_output",
    ("self", "new_token_ids", "pooling_output", "finish_reason"),
)
WORKER = Seam("v1.worker.worker_base", "WorkerBase")

V1 = "v1.worker.gpu_model_runner"
V1_LOAD = Seam(V1, "GPUModelRunner.load_model", ("self",))
V1_LOAD_CPU = Seam("v1.worker.cpu_model_runner", "CPUModelRunner.load_model", ("self",))
V1_PREPARE = Seam(
    V1, "GPUModelRunner._prepare_inputs", ("self", "scheduler_output", "num_scheduled_tokens")
)
V1_EXECUTE = Seam(
    V1, "GPUModelRunner.execute_model", ("self", "scheduler_output", "intermediate_tensors")
)
V1_SAMPLE = Seam(V1, "GPUModelRunner.sample_tokens", ("self", "grammar_output"))

V2 = "v1.worker.gpu.model_runner"
V2_LOAD = Seam(V2, "GPUModelRunner.load_model", ("self",))
V2_PREPARE = Seam(V2, "GPUModelRunner.prepare_inputs", ("self", "scheduler_output"))
V2_EXECUTE = Seam(
    V2,
    "GPUModelRunner.execute_model",
    ("self", "scheduler_output", "intermediate_tensors", "dummy_run"),
)
V2_SAMPLE = Seam(V2, "GPUModelRunner.sample_tokens", ("self", "grammar_output"))

COMMON = (
    CONFIGURE,
    UPDATE,
    OUTPUTS,
    MAKE_OUTPUT,
    WORKER,
    Seam(
        "v1.engine.output_processor",
        "OutputProcessor",
        names=("self.request_states", "self.tokenizer"),
    ),
    Seam(
        "v1.engine.output_processor",
        "OutputProcessor.add_request",
        ("request", "parent_req", "request_index", "queue"),
    ),
    Seam("v1.engine.output_processor", "OutputProcessor.abort_requests", ("request_ids",)),
    Seam(
        "v1.engine.output_processor",
        "OutputProcessorOutput",
        ("request_outputs", "reqs_to_abort"),
    ),
    Seam(
        "v1.engine.output_processor",
        "RequestState",
        names=("self.external_req_id", "self.parent_req", "self.request_index", "self.queue"),
    ),
    Seam("v1.engine.output_processor", "RequestOutputCollector", names=("self.output",)),
    Seam(
        "v1.engine",
        "EngineCoreOutput",
        ("new_token_ids", "finish_reason", "stop_reason", "kv_transfer_params"),
    ),
    Seam(
        "v1.engine",
        "EngineCoreRequest",
        ("sampling_params", "cache_salt", "lora_request", "prompt_token_ids", "resumable"),
    ),
    Seam("v1.outputs", "ModelRunnerOutput", ("req_ids", "sampled_token_ids")),
    Seam("v1.outputs", "AsyncModelRunnerOutput.get_output", ("self",)),
    Seam(
        "v1.core.sched.output",
        "SchedulerOutput",
        (
            "scheduled_new_reqs",
            "num_scheduled_tokens",
            "total_num_scheduled_tokens",
            "scheduled_spec_decode_tokens",
            "finished_req_ids",
        ),
    ),
    Seam("v1.core.sched.output", "NewRequestData", ("req_id", "sampling_params")),
    Seam("entrypoints.llm", "LLM.collective_rpc", ("method", "args")),
    Seam("v1.engine.async_llm", "AsyncLLM.collective_rpc", ("method", "args")),
    Seam("sampling_params", "SamplingParams", names=("extra_args", "skip_reading_prefix_cache")),
    Seam("exceptions", "VLLMValidationError"),
    Seam("sequence", "IntermediateTensors", ("tensors",)),
)

RUNNER_V1 = (
    V1_LOAD,
    V1_LOAD_CPU,
    V1_PREPARE,
    V1_EXECUTE,
    V1_SAMPLE,
    Seam(
        V1,
        "GPUModelRunner",
        names=("self.input_batch", "self.execute_model_state", "self.max_num_tokens"),
    ),
    Seam(
        "v1.worker.gpu_input_batch",
        "InputBatch",
        names=("req_ids", "num_computed_tokens_cpu", "token_ids_cpu", "num_tokens_no_spec"),
    ),
)

RUNNER_V2 = (
    V2_LOAD,
    V2_PREPARE,
    V2_EXECUTE,
    V2_SAMPLE,
    Seam(V2, "GPUModelRunner", names=("self.execute_model_state", "self.max_num_tokens")),
    Seam(
        "v1.worker.gpu.input_batch",
        "InputBatch",
        (
            "req_ids",
            "num_scheduled_tokens",
            "num_computed_tokens_np",
            "logits_indices",
            "cu_num_logits_np",
        ),
    ),
)

SERVER = (
    Seam("entrypoints.launchers.app", "build_app", ("args",), ("app.state.args",)),
    Seam(
        "entrypoints.launchers.launcher",
        "serve_http",
        ("app",),
        ("app.state.engine_client", "app.state.server", "server.should_exit"),
    ),
    Seam(
        "entrypoints.serve.middleware.register",
        "init_entrypoints_middleware",
        ("args",),
        ("args.api_key", "envs.VLLM_API_KEY"),
    ),
)


def api_keys(state: Any) -> list[str]:
    """Return the keys of a server, given the state of its app: none, or several."""
    envs = importlib.import_module("vllm.envs")
    return [key for key in (state.args.api_key or [envs.VLLM_API_KEY]) if key]


def is_serving(state: Any) -> bool:
    """Return whether a server is to go on, given the state of its app."""
    return not state.server.should_exit


def version() -> str:
    """Return vLLM's version; that of its distribution may be missing, in builds for CPUs."""
    return str(importlib.import_module("vllm").__version__)


def missing(*, v2: bool | None = None) -> list[str]:
    """Return the deviations of vLLM; `v2` leaves out the other model runner."""
    runners = {None: RUNNER_V1 + RUNNER_V2, False: RUNNER_V1, True: RUNNER_V2}[v2]
    return _missing(COMMON + runners)


def missing_in_server() -> list[str]:
    """Return the deviations of the server of `vllm serve`."""
    return _missing(SERVER)


def unknown(missing: list[str]) -> str:
    """Return the refusal of a vLLM with such deviations."""
    return (
        f"this vLLM ({version()}) is not one that EmoGuard knows how to read, it lacks "
        f"{', '.join(missing)}: install {RELEASES}"
    )


def is_tested(release: str) -> bool:
    """Return whether a version is one that was tested."""
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    return TESTED[0] <= numbers < TESTED[1]


def wrap(seam: Seam, around: Around) -> None:
    """Have every call of a method go through `around(original, self, …)`, for good. Once."""
    owner = Seam(seam.module, seam.name.rpartition(".")[0]).find()
    name = seam.name.rpartition(".")[2]
    original = vars(owner).get(name)
    if original is None or hasattr(original, "__emoguard__"):
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    wrapped.__emoguard__ = True  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _missing(seams: tuple[Seam, ...]) -> list[str]:
    return [place for seam in seams if (place := seam.missing())]


def _plain(target: Any) -> Any:
    return target.__func__ if isinstance(target, staticmethod | classmethod) else target
