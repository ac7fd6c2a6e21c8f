"""The engines that the same tests run on, one a process: `EMOGUARD_TEST_ENGINE` names it.

Two of them are what a GPU runs by default, made to run on a CPU by stand-ins: see `standins`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.models import CACHE, hf_copy, smollm2_gguf

PROBE = "smollm2-135m-instruct"

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 128,  # prompts of more tokens come in chunks
    "block_size": 32,
    "max_logprobs": -1,
    "disable_log_stats": False,  # counts preemptions
    "seed": 0,
    "additional_config": {"emoguard": {"probe": PROBE}},
}
EAGER = {"enforce_eager": True}
UNI = {"distributed_executor_backend": "uni"}
SMALL_CACHE = {"num_gpu_blocks_override": 44}
"""1,376 positions: requests that need more together wait or are preempted."""


@dataclass(frozen=True)
class Configuration:
    """How an engine is started: in which environment, with which options, by which stand-ins."""

    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    standins: tuple[str, ...] = ()
    is_tiny: bool = False


CONFIGURATIONS = {
    "serve": Configuration(),  # a server of its own: see test_serve
    "eager": Configuration(
        EAGER | UNI | SMALL_CACHE | {"additional_config": {"emoguard": {"door": True}}},
        ONE_PROCESS,
    ),
    # Six narrow layers: the compiler needs minutes for thirty.
    "compiled": Configuration(
        UNI | {"additional_config": {"emoguard": {"door": True}}}, ONE_PROCESS, is_tiny=True
    ),
    "whole": Configuration(SMALL_CACHE),
    "ngram": Configuration(
        EAGER
        | UNI
        | {
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 3,
                "prompt_lookup_max": 3,
                "prompt_lookup_min": 1,
            }
        },
        ONE_PROCESS,
    ),
    "async": Configuration(EAGER | UNI | SMALL_CACHE, ONE_PROCESS, ("async",)),
    "v2": Configuration(
        EAGER | UNI, ONE_PROCESS | {"VLLM_USE_V2_MODEL_RUNNER": "1"}, ("async", "v2")
    ),
    "pp2": Configuration(
        EAGER | {"pipeline_parallel_size": 2, "worker_cls": "tests.plugins.vllm.pipeline.Worker"},
        {"VLLM_PP_LAYER_PARTITION": "17,13"},  # two of the probe's layers in each stage
    ),
    "tp3": Configuration(EAGER | {"tensor_parallel_size": 3}),
    "ray": Configuration(
        EAGER | {"distributed_executor_backend": "ray"},
        ONE_PROCESS
        | {
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "VLLM_HOST_IP": "127.0.0.1",
        },
        ("ray",),
    ),
}

NAME = os.environ.get("EMOGUARD_TEST_ENGINE", "eager")


def has_small_cache() -> bool:
    """Return whether requests that run together are preempted."""
    return SMALL_CACHE.items() <= CONFIGURATIONS[NAME].options.items()


def prepare() -> None:
    """Set the environment; before vLLM is imported."""
    configuration = CONFIGURATIONS[NAME]
    os.environ.update(ENVIRONMENT | configuration.environment)
    if "v2" in configuration.standins:
        os.environ["TRITON_INTERPRET"] = "1"
        from tests.plugins.vllm import standins

        standins.second_runner()  # vLLM looks for Triton when it is imported


def start(**more: Any) -> Any:
    """Return a `vllm.LLM` on SmolLM2."""
    from vllm import LLM

    from tests.plugins.vllm import standins

    configuration = CONFIGURATIONS[NAME]
    if "async" in configuration.standins:
        standins.asynchronous()
    if "v2" in configuration.standins:
        standins.torch_sampler()
    if "ray" in configuration.standins:
        standins.ray_cluster()
    folder = tiny_folder() if configuration.is_tiny else hf_copy(smollm2_gguf())
    return LLM(str(folder), **(OPTIONS | configuration.options | more))


def tiny_folder() -> Path:
    """Return a folder with a random model of six layers and SmolLM2's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = CACHE / "tiny-llama-hf"
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(hf_copy(smollm2_gguf())).save_pretrained(folder)
    return folder
