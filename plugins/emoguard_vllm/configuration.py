"""Checks an engine's configuration before weights are loaded, and lays out the hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.probe.shipped import shipped_files
from emoguard.sinks.open import check_places, check_sinks
from emoguard_vllm import seams
from emoguard_vllm.settings import Layout, Settings

log = logging.getLogger("emoguard")


def configure(plain: Callable[..., Any], arguments: Any, *args: Any, **kwargs: Any) -> Any:
    """Return vLLM's configuration with the layout of EmoGuard's hooks added.

    Raises:
        EmoGuardError: settings, a policy or a probe that are not sound, or an engine that cannot be
            read.

    """
    settings = Settings.of(arguments.additional_config)
    config = plain(arguments, *args, **kwargs)
    if settings is not None:
        for reason in refusals(config):
            raise EmoGuardError(reason)
        release = seams.version()
        if not seams.is_tested(release):
            log.warning(
                "EmoGuard was not tested with vLLM %s; what it needs of it is there", release
            )
        _check_sinks(settings)
        layout = lay_out(config, settings)
        config.additional_config = layout.into(config.additional_config, settings)
    return config


def refusals(config: Any) -> Iterator[str]:
    """Yield the reasons why an engine with this configuration cannot be read, one sentence each."""
    missing = seams.missing(v2=bool(config.use_v2_model_runner))
    if missing:
        yield seams.unknown(missing)
    yield from _of_model(config.model_config)
    yield from _of_parallel(config.parallel_config)
    if config.cache_config.kv_sharing_fast_prefill:
        yield (
            "kv_sharing_fast_prefill leaves out positions behind a layer, so tokens have no row "
            "there: turn it off"
        )
    if config.kv_transfer_config is not None:
        yield (
            "engines that exchange KV caches (kv_transfer_config: disaggregated prefill, LMCache) "
            "cannot be read yet: run without, or without EmoGuard in additional_config"
        )
    if config.use_v2_model_runner and config.parallel_config.pipeline_parallel_size > 1:
        yield (
            "pipeline parallelism is not read on vLLM's second model runner yet: set "
            "VLLM_USE_V2_MODEL_RUNNER=0"
        )
    drafts = config.speculative_config
    if drafts is not None and drafts.method != "ngram":
        yield f"speculative decoding by {drafts.method} is not read yet: use ngram, or none"
    elif drafts is not None and drafts.enable_adaptive_verification:
        yield (
            "adaptive verification leaves out drafts on the device alone, so rows and tokens could "
            "not be matched: turn enable_adaptive_verification off"
        )


def _of_model(model: Any) -> Iterator[str]:
    if model.runner_type != "generate":
        yield f"EmoGuard reads generations, and this engine runs {model.runner_type} requests"
    if model.is_encoder_decoder:
        yield "encoder-decoder models have no one residual stream to read: take a decoder"
    if model.hf_text_config.model_type.startswith(("gemma3n", "deepseek_v4")):
        yield (
            f"{model.hf_text_config.model_type} has more than one residual stream, and EmoGuard "
            "reads one"
        )


def _of_parallel(parallel: Any) -> Iterator[str]:
    if parallel.data_parallel_size > 1:
        yield (
            "data parallelism within one server is not read yet: run one engine for each replica, "
            "behind a load balancer"
        )
    if parallel._api_process_count > 1:  # noqa: SLF001
        yield (
            "several API servers would each keep their own notices, alarms and metrics: start with "
            "--api-server-count 1, and more replicas"
        )
    if parallel.enable_dbo or parallel.ubatch_size > 1:
        yield (
            "micro-batches (enable_dbo, ubatch_size) would overwrite each other's rows: turn them "
            "off"
        )
    if parallel.prefill_context_parallel_size > 1:
        yield "prefill context parallelism shards the positions that are read: set it to 1"


def _check_sinks(settings: Settings) -> None:
    """Check the sinks of a policy as far as they can be checked without opening any.

    Raises:
        EmoGuardError: an unknown sink or option, or a place that cannot be written.

    """
    if settings.policy is None:
        return
    policy = Policy.load(settings.policy)
    check_sinks(policy)
    for reason in check_places(policy):
        raise EmoGuardError(reason)


def lay_out(config: Any, settings: Settings) -> Layout:
    """Return the blocks to hook.

    Raises:
        EmoGuardError: no probe fits, or a policy that it cannot serve.

    """
    model = config.model_config
    count, hidden = model.get_total_num_hidden_layers(), model.get_hidden_size()
    layers: tuple[int, ...] = tuple(range(count - 1))
    labels = 0
    if not settings.door or settings.probe:
        probe = _guard(settings, count, hidden).probe
        labels = len(probe.labels)
        layers = layers if settings.door else probe.layers
    return Layout(
        layers,
        max(labels, 64 if settings.door else 1),
        settings.slots,
        settings.door,
        emoguard.__version__,
    )


def _guard(settings: Settings, count: int, hidden: int) -> Guard:
    """Return a guard with the requested probe, or the shipped one of the model's size."""
    if settings.probe is not None:
        guard = Guard.load(settings.probe, settings.policy)
    else:
        guards = [
            Guard.load(name, settings.policy)
            for name in shipped_files()
            if _fits(name, count, hidden)
        ]
        if not guards:
            raise EmoGuardError(
                f"no shipped probe is for a model of {count} layers of width {hidden}: make one "
                'with emoguard fit, and name it in additional_config, {"emoguard": {"probe": …}}'
            )
        guard = guards[0]
    probe = guard.probe
    if (probe.model_layers, probe.hidden) != (count, hidden):
        raise EmoGuardError(
            f"{probe.name} is for models of {probe.model_layers} layers of width {probe.hidden}, "
            f"this one has {count} of {hidden}: make a probe for it with emoguard fit"
        )
    guard.check(guard.policy)
    return guard


def _fits(name: str, count: int, hidden: int) -> bool:
    probe = Guard.load(name).probe
    return (probe.model_layers, probe.hidden) == (count, hidden)
