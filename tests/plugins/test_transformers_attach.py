"""Where a watch may be attached, and what happens to what it cannot read."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import emoguard_transformers
import numpy as np
import pytest
import torch
from emoguard_transformers.run import Run

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Request
from emoguard.testing import make_calibration, make_probe
from tests.contract.hf_models import HfHarness, build

IDS = torch.tensor([[5, 9, 17, 33, 8]])
OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


def probe_for(model: Any) -> Any:
    return make_probe(HfHarness(model).open_residuals(), ("happy", "sad", "calm"))


def test_offloaded_weights_are_read_where_the_block_runs() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build()
    probe = probe_for(model)
    clean = model.generate(IDS, **OPTIONS)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with emoguard.attach(model, Guard(probe)) as watch:
        assert torch.equal(model.generate(IDS, **OPTIONS), clean)
    assert watch.reports[-1].tokens_scored == 5


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_rows_are_raw_once_another_adapter_is_active() -> None:
    peft = pytest.importorskip("peft")
    model = build()
    probe = probe_for(model)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=True)
    wrapped = peft.get_peft_model(
        model, config
    )  # an untrained adapter: it changes the identity only
    detail = Request(scores="tokens")
    with emoguard.attach(model, Guard(probe)) as watch:
        model.generate(IDS, emoguard=detail, **OPTIONS)
    raw = np.array([token.z for token in watch.reports[-1].tokens])
    calibrations = [make_calibration(probe, watch.identity)]
    guard = Guard(probe, calibrations, Policy(on_unsupported="skip"))
    with emoguard.attach(model, guard) as watch:
        model.generate(IDS, emoguard=detail, **OPTIONS)
        wrapped.base_model.disable_adapter_layers()
        model.generate(IDS, emoguard=detail, **OPTIONS)
        model.generate(IDS, num_beams=2, **OPTIONS)
    first, second, unread = watch.reports
    assert (unread.status, unread.faults) == ("skipped", ())
    assert (first.status, second.status) == ("scored", "uncalibrated")
    actual = np.array([token.z for token in second.tokens])
    assert np.allclose(actual, raw, atol=1e-4)
    assert not np.allclose([token.z for token in first.tokens], raw, atol=1e-2)


def test_a_later_wrapper_around_the_model_keeps_working() -> None:
    model = build()
    watch = emoguard.attach(model, Guard(probe_for(model)))
    inner, calls = model.generate, []

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(*args, **kwargs)

    model.generate = theirs
    watch.detach()
    assert model.generate is theirs
    assert len(model.generate(IDS, emoguard=Request(), **OPTIONS)[0]) == 10
    assert (len(calls), list(watch.reports)) == (1, [])


def test_runs_with_the_same_request_are_two() -> None:
    request = Request(id="same")
    assert Run(request) != Run(request)


@pytest.fixture
def one_process() -> Any:
    """A process group of this process alone."""
    distributed = torch.distributed
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of what gloo and FSDP have to say, each release of other
def test_sharded_weights_are_refused_in_words_and_read_where_attached_before(
    one_process: Any,
) -> None:
    from torch.distributed.fsdp import fully_shard

    model = build()
    guard = Guard(probe_for(model))
    with emoguard.attach(model, guard) as watch:
        model.generate(IDS, emoguard=Request(scores="tokens"), **OPTIONS)
        for part in (*model.model.layers, model):
            fully_shard(part, mesh=one_process)
        model.generate(IDS, emoguard=Request(scores="tokens"), **OPTIONS)
        assert watch.reports[0].tokens == watch.reports[1].tokens
    with pytest.raises(EmoGuardError, match=r"sharded over processes.*attach before fully_shard"):
        emoguard.attach(model, guard)


def test_a_model_without_a_head_is_refused() -> None:
    model = build()
    with pytest.raises(EmoGuardError, match="AutoModelForCausalLM"):
        emoguard_transformers.open_residuals(model.model)


def test_text_without_a_tokenizer_is_refused_by_name() -> None:
    with pytest.raises(EmoGuardError, match="tokenizer="):
        emoguard_transformers.open_residuals(build()).tokenize("text")


@pytest.mark.parametrize(("ids", "layers"), [([], (1,)), ([999], (1,)), ([1], (5,)), ([1], ())])
def test_the_door_refuses_layers_and_tokens_that_the_model_lacks(
    ids: list[int], layers: Any
) -> None:
    with pytest.raises(EmoGuardError):
        emoguard_transformers.open_residuals(build()).residuals(ids, layers)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
def test_the_door_gives_the_hidden_states_of_the_next_layer(architecture: str) -> None:
    model = build(architecture)
    actual = emoguard_transformers.open_residuals(model).residuals(IDS[0].tolist(), (0, 3))
    with torch.no_grad():
        states = model(IDS, output_hidden_states=True).hidden_states
    assert np.array_equal(actual, np.stack([states[1][0].numpy(), states[4][0].numpy()]))


def test_the_dtype_is_part_of_the_identity_and_the_name_is_not() -> None:
    model = build()
    first = emoguard_transformers.open_residuals(model).identity
    model.config._name_or_path = "somewhere/else"
    assert emoguard_transformers.open_residuals(model).identity.digest == first.digest
    other = emoguard_transformers.open_residuals(model.bfloat16()).identity
    assert (other.quantisation, other.digest != first.digest) == ("bfloat16", True)


def test_generate_refuses_the_same_calls_as_before() -> None:
    model = build()
    with emoguard.attach(model, Guard(probe_for(model))) as watch:
        with pytest.raises(ValueError, match="max_new_tokens"):
            model.generate(IDS, max_new_tokens=0)
        with pytest.raises(ValueError, match="max_new_tokns"):
            model.generate(IDS, max_new_tokns=5)
        assert watch.live() is None
        assert not watch.reports, "what never generated is no response"
        model.generate(IDS, **OPTIONS)
    assert watch.reports[-1].tokens_scored == 5


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved, copy.copy]
)
def test_the_copy_of_a_watched_model_is_not_watched(way: Callable[[Any], Any]) -> None:
    model = build()
    guard, plain = Guard(probe_for(model)), model.generate(IDS, **OPTIONS)
    before = set(vars(model))
    with emoguard.attach(model, guard) as watch:
        other = way(model)
        assert set(vars(other)) == before
        assert torch.equal(other.generate(IDS, **OPTIONS), plain)
        assert not watch.reports, "the watch stays with the original"
        if way is not copy.copy:  # which shares the blocks, and the hooks on them
            assert not any(block._forward_hooks for block in other.model.layers)
            with emoguard.attach(other, guard) as second:
                other.generate(IDS, **OPTIONS)
            assert second.reports[-1].tokens_scored == 5
        model.generate(IDS, **OPTIONS)
        assert [report.tokens_scored for report in watch.reports] == [5]
    assert set(vars(model)) == before
