"""What cannot be read is refused before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from emoguard_vllm import configuration, doctor, seams
from emoguard_vllm.settings import Layout, Settings

from emoguard.errors import EmoGuardError
from tests.plugins.vllm.engines import PROBE
from tests.support.models import hf_copy, smollm2_gguf

pytestmark = pytest.mark.engines("eager")


def configure(**options: Any) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    settled = {"max_model_len": 512, "additional_config": {"emoguard": {"probe": PROBE}}}
    return EngineArgs(str(hf_copy(smollm2_gguf())), **(settled | options)).create_engine_config()


def drafts(method: str, adaptive: bool = False) -> Any:
    return SimpleNamespace(method=method, enable_adaptive_verification=adaptive)


def test_every_seam_is_there_in_this_release() -> None:
    assert seams.is_tested(seams.version())
    assert seams.missing() == []
    assert seams.missing_in_server() == []


def test_a_seam_that_moved_is_named() -> None:
    moved = seams.Seam("v1.core.sched.scheduler", "Scheduler.update_from_outputs")
    assert moved.missing() == "vllm.v1.core.sched.scheduler.Scheduler.update_from_outputs"
    other = seams.Seam("v1.core.sched.scheduler", "Scheduler.update_from_output", ("scheduled",))
    assert other.missing().endswith("update_from_output(scheduled)")
    gone = seams.Seam("v1.engine.output_processor", "OutputProcessor", names=("self.requests_",))
    assert gone.missing().endswith("OutputProcessor.self.requests_")
    assert seams.Seam("no.such.module", "Thing").missing() == "vllm.no.such.module.Thing"


def test_a_vllm_that_moved_is_refused(monkeypatch: Any) -> None:
    moved = seams.Seam("v1.core.sched.scheduler", "Scheduler.update_from_outputs")
    monkeypatch.setattr(seams, "COMMON", (*seams.COMMON, moved))
    with pytest.raises(EmoGuardError, match=r"lacks vllm\.v1\.core\.sched"):
        configure()


def test_doctor_says_what_fits() -> None:
    found = {part: mark for part, mark, _ in doctor.findings()}
    assert found == dict.fromkeys(found, "ok")
    assert len(found) == 5


def test_an_engine_without_our_part_is_left_alone() -> None:
    assert configure(additional_config={"others": 1}).additional_config == {"others": 1}


def test_the_layout_is_the_probe_s_and_salts_the_compile_cache() -> None:
    config, plain = configure(), configure(additional_config={})
    layout = Layout.of(config.additional_config)
    assert layout.layers == (15, 16, 17, 18)
    assert layout.labels == 13
    assert config.compute_hash() != plain.compute_hash()
    json.dumps(config.additional_config)  # vLLM hashes it so
    assert Layout.of(configure(additional_config={"emoguard": {}}).additional_config) == layout


def test_nothing_of_vllm_s_own_choices_changes() -> None:
    config, plain = configure(), configure(additional_config={})
    for ours, theirs in (
        (config.compilation_config.mode, plain.compilation_config.mode),
        (config.compilation_config.cudagraph_mode, plain.compilation_config.cudagraph_mode),
        (config.cache_config.enable_prefix_caching, plain.cache_config.enable_prefix_caching),
        (config.scheduler_config, plain.scheduler_config),
    ):
        assert ours == theirs


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"policy": "no such file.yaml"}, "no such file"),
        ({"probe": "no such probe"}, "no such probe"),
        ({"probe": "gemma-3-270m"}, "is for models of"),
        ({"slot": 1}, "slot"),
    ],
)
def test_settings_that_are_wrong_are_refused(own: Any, said: str) -> None:
    with pytest.raises(EmoGuardError, match=said):
        configure(additional_config={"emoguard": own})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"sinks": [{"no_such_sink": {}}]}, r"sinks\.0\.no_such_sink: unknown"),
        (
            {"sinks": [{"jsonl": {"path": "a/missing/folder/log.jsonl"}}]},
            r"sinks\.0\.jsonl: .*missing",
        ),
        ({"steering": {"plan": {"add": {"no such label": 0.1}}}}, "no such label"),
    ],
)
def test_a_policy_that_cannot_be_served_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(content))
    with pytest.raises(EmoGuardError, match=said):
        configure(additional_config={"emoguard": {"probe": PROBE, "policy": str(policy)}})


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("model_config", {"runner_type": "pooling"}, "pooling"),
        ("model_config", {"is_encoder_decoder": True}, "encoder-decoder"),
        ("parallel_config", {"data_parallel_size": 2}, "data parallelism"),
        ("parallel_config", {"_api_process_count": 2}, "several API servers"),
        ("parallel_config", {"enable_dbo": True}, "micro-batches"),
        ("parallel_config", {"prefill_context_parallel_size": 2}, "prefill context"),
        ("cache_config", {"kv_sharing_fast_prefill": True}, "kv_sharing_fast_prefill"),
        ("", {"kv_transfer_config": SimpleNamespace()}, "disaggregated prefill"),
        ("", {"speculative_config": drafts("eagle3")}, "eagle3"),
        ("", {"speculative_config": drafts("ngram", adaptive=True)}, "adaptive verification"),
    ],
)
def test_configurations_that_cannot_be_read_are_refused(part: str, values: Any, said: str) -> None:
    plain = configure(additional_config={})
    assert list(configuration.refusals(plain)) == []
    parts = {name: getattr(plain, name) for name in NAMES}
    if part:
        values = {part: Changed(parts[part], values)}
    found = list(configuration.refusals(SimpleNamespace(**(parts | values))))
    assert len(found) == 1
    assert said in found[0]


NAMES = (
    "model_config",
    "parallel_config",
    "cache_config",
    "kv_transfer_config",
    "speculative_config",
    "use_v2_model_runner",
)


class Changed:
    """A part of a configuration with other values here and there."""

    def __init__(self, plain: Any, values: dict[str, Any]) -> None:
        self._plain, self._values = plain, values

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__["_values"]
        return values[name] if name in values else getattr(self.__dict__["_plain"], name)


def test_an_engine_that_was_not_started_for_a_probe_says_so(llm: Any) -> None:
    from emoguard_vllm.engine import Engine

    with pytest.raises(EmoGuardError, match=r"wanted a vllm\.LLM"):
        Engine(object())
    assert Engine(llm).settings == Settings(door=True)
