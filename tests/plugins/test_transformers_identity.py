"""Which file a Transformers model is: by what it holds, at attach and when a response begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import emoguard_torch.content
import emoguard_transformers.adapters
import emoguard_transformers.identity
import pytest
import torch

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.records import Report, Request
from emoguard.runtime.attach import find
from emoguard.runtime.watch import Watch
from emoguard.testing import make_calibration, make_probe
from tests.contract.hf_models import HfHarness, build

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

IDS = torch.tensor([[5, 9, 17, 33, 8]])
OPTIONS: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
LORA: dict[str, Any] = {
    "r": 2,
    "lora_alpha": 0.02,
    "target_modules": ["q_proj"],
    "init_lora_weights": False,
}


def guard_for(model: Any) -> Guard:
    """Return a guard that is calibrated on `model` as it is now."""
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, ("happy", "sad", "calm"))
    return Guard(probe, [make_calibration(probe, door.identity)])


def report(model: Any, watch: Watch, **options: Any) -> Report:
    with torch.no_grad():
        model.generate(input_ids=IDS, **OPTIONS, **options)
    return watch.reports[-1]


def adapted(model: Any, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return peft.get_peft_model(model, peft.LoraConfig(**(LORA | changes))).eval()


def merged(model: Any) -> Any:
    return adapted(model).merge_and_unload()


def merged_in_place(model: Any) -> Any:
    wrapped = adapted(model)
    wrapped.merge_adapter()
    return wrapped


def soft_prompt(model: Any, kind: str = "PromptTuningConfig") -> Any:
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)
    return peft.get_peft_model(model, config).eval()


def trained(model: Any, make: Any = torch.optim.SGD, **options: Any) -> Any:
    """Take a training step on one value of one matrix, which no first bytes show."""
    weight = model.model.layers[3].self_attn.v_proj.weight
    weight.grad = torch.zeros_like(weight)
    weight.grad[-1, -1] = 1
    make([weight], lr=1e-3, **options).step()
    weight.grad = None
    return model


def another_module(model: Any) -> Any:
    model.model.layers[4].mlp.up_proj = torch.nn.Linear(48, 64, bias=False)
    return model


def with_bias(model: Any) -> Any:
    model.model.layers[4].mlp.up_proj.bias = torch.nn.Parameter(torch.ones(64))
    return model


def resized(model: Any) -> Any:
    model.resize_token_embeddings(300)
    return model


def integrated(model: Any) -> Any:
    model.add_adapter(peft.LoraConfig(**LORA), "own")
    return model


CHANGES = {
    "adapter": adapted,
    "all layers": lambda m: adapted(m, target_modules=["q_proj", "down_proj"]),
    "dora": lambda m: adapted(m, use_dora=True),
    "saved modules": lambda m: adapted(m, modules_to_save=["lm_head"]),
    "add_adapter": integrated,
    "merge_and_unload": merged,
    "merge_adapter": merged_in_place,
    "prompt tuning": soft_prompt,
    "p-tuning": lambda m: soft_prompt(m, "PromptEncoderConfig"),
    "SGD": trained,
    "AdamW": lambda m: trained(m, torch.optim.AdamW),
    "foreach": lambda m: trained(m, torch.optim.AdamW, foreach=True),
    "fused": lambda m: trained(m, torch.optim.AdamW, fused=True),
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "resize": resized,
    "another module": another_module,
    "bias": with_bias,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_another_file_under_a_watch_and_at_a_fresh_attach(change: Any) -> None:
    model = build()
    guard = guard_for(model)
    with emoguard.attach(model, guard) as watch:
        before = report(model, watch)
        changed = change(model)
        live = report(changed, watch)
    with emoguard.attach(changed, guard) as watch:
        fresh = report(changed, watch)
    assert (before.status, live.status, fresh.status) == ("scored", "uncalibrated", "uncalibrated")
    assert before.identity != live.identity == fresh.identity


@pytest.mark.parametrize("make", [adapted, soft_prompt])
def test_without_the_adapter_it_is_the_base_file_again(make: Any) -> None:
    model = build()
    guard = guard_for(model)
    with emoguard.attach(model, guard) as watch:
        base = report(model, watch)
        wrapped = make(model)
        assert report(wrapped, watch).status == "uncalibrated"
        with wrapped.disable_adapter():
            off = report(wrapped, watch)
        again = report(wrapped, watch)
        if make is soft_prompt:  # the model itself, past the wrapper, has no soft prompt
            assert report(model, watch).identity == base.identity
    assert (off.status, off.identity) == ("scored", base.identity)
    assert again.status == "uncalibrated"


def test_merged_in_place_is_the_file_that_merging_and_unloading_makes() -> None:
    assert identity(merged(build())) == identity(merged_in_place(build()))


def identity(model: Any) -> Any:
    plugin, inner = find(model)
    return plugin.open_residuals(inner).identity.digest


def saved(folder: Path, seed: int) -> Path:
    adapted(build(), seed).save_pretrained(folder)
    return folder


def loaded(folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(build(), folder).eval()


def test_adapters_are_told_apart_by_content_and_not_by_name_or_folder(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one", 1), saved(tmp_path / "other", 2)
    same = saved(tmp_path / "same", 1)
    model = loaded(one)
    guard = guard_for(find(model)[1])
    for folder, status in ((one, "scored"), (other, "uncalibrated"), (same, "scored")):
        model = loaded(folder)
        with emoguard.attach(model, guard) as watch:
            assert report(model, watch).status == status
    assert identity(loaded(one)) == identity(loaded(same)) != identity(loaded(other))


def test_an_adapter_is_the_same_by_another_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one", 1)
    model = peft.PeftModel.from_pretrained(build(), folder, adapter_name="mine").eval()
    assert identity(model) == identity(loaded(folder))


def test_scale_content_and_choice_of_adapters_count_when_a_response_begins(tmp_path: Path) -> None:
    model = loaded(saved(tmp_path / "one", 1))
    model.load_adapter(saved(tmp_path / "other", 2), "other")
    layer = model.base_model.model.model.layers[2].self_attn.q_proj
    guard = guard_for(find(model)[1])
    with emoguard.attach(model, guard) as watch:
        first = report(model, watch)
        model.set_adapter("other")
        second = report(model, watch)
        model.base_model.set_adapter(["default", "other"])
        both = report(model, watch)
        model.set_adapter("default")
        again = report(model, watch)
        layer.scale_layer(0.5)
        scaled = report(model, watch)
        layer.unscale_layer()
        with torch.no_grad():
            layer.lora_B["default"].weight.add_(0.01)
        tuned = report(model, watch)
    assert (first.status, again.status) == ("scored", "scored")
    reports = (first, second, both, scaled, tuned)
    assert len({each.identity for each in reports}) == len(reports)
    assert {each.status for each in reports[1:]} == {"uncalibrated"}


def test_adapters_chosen_by_row_count(tmp_path: Path) -> None:
    model = loaded(saved(tmp_path / "one", 1))
    guard = guard_for(find(model)[1])
    with emoguard.attach(model, guard) as watch:
        usual = report(model, watch)
        assert report(model, watch, adapter_names=["default"]).identity == usual.identity
        base = report(model, watch, adapter_names=["__base__"])
    assert base.status == "uncalibrated"
    assert base.identity == identity(build())


def test_writes_through_data_are_seen_by_a_recheck_and_at_a_fresh_attach() -> None:
    model = build()
    guard = guard_for(model)
    with emoguard.attach(model, guard) as watch:
        first = report(model, watch)
        assert watch.recheck() == watch.identity
        model.model.layers[3].self_attn.v_proj.weight.data[0, 0] += 1e-3
        assert watch.recheck() != watch.identity
        second = report(model, watch)
    assert (first.status, second.status) == ("scored", "uncalibrated")
    assert second.identity == identity(model)


def test_the_chat_template_is_looked_at_again() -> None:
    class Tokenizer:
        chat_template = "one"

        def get_vocab(self) -> dict[str, int]:
            return {}

        def decode(self, ids: Any, **_: Any) -> str:
            return str(ids)

        def __call__(self, text: str) -> Any:
            raise NotImplementedError

    model, tokenizer = build(), Tokenizer()
    with emoguard.attach(model, Guard(guard_for(model).probe), tokenizer=tokenizer) as watch:
        first = report(model, watch).identity
        tokenizer.chat_template = "other"
        assert report(model, watch).identity != first


def test_content_is_read_once_and_not_for_every_response(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(build())
    guard = guard_for(find(model)[1])
    read: list[int] = []
    for module in (emoguard_torch.content, emoguard_transformers.adapters):
        plain = module.checksum
        monkeypatch.setattr(module, "checksum", lambda t, plain=plain: read.append(1) or plain(t))
    with emoguard.attach(model, guard) as watch:
        read.clear()
        for _ in range(3):
            report(model, watch)
        with model.disable_adapter():
            report(model, watch)
        report(model, watch)
        assert not read
        watch.recheck()
        assert read


def test_weights_that_cannot_be_looked_at_leave_the_response_alone() -> None:
    class Opaque(torch.nn.Parameter):
        def __tensor_flatten__(self) -> Any:
            raise RuntimeError("kept elsewhere")

    model = build()
    guard = guard_for(model)
    with emoguard.attach(model, guard) as watch:
        clean = report(model, watch)
        old = model.model.layers[3].mlp.up_proj.weight
        opaque = torch.Tensor._make_subclass(Opaque, old.data)
        model.model.layers[3].mlp._parameters.clear()
        model.model.layers[3].mlp.up_proj._parameters["weight"] = opaque
        report_ = report(model, watch, emoguard=Request())
    assert (clean.status, report_.status) == ("scored", "uncalibrated")
    assert report_.completion_tokens == 3


class Opaque(torch.Tensor):
    """Weights as eight-bit numbers and a scale, which few operations can be asked of."""

    numbers: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, scale: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32)

    def __init__(self, numbers: torch.Tensor, scale: torch.Tensor) -> None:
        self.numbers, self.scale = numbers, scale

    @classmethod
    def of(cls, weight: torch.Tensor) -> Any:
        scale = weight.detach().abs().amax(1, keepdim=True) / 127
        return cls((weight.detach() / scale).round().to(torch.int8), scale)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.linear:
            inputs, weight, *bias = args
            return function(inputs, weight.numbers * weight.scale, *bias)
        return super().__torch_function__(function, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].numbers, args[0].scale)
        raise NotImplementedError(f"{cls.__name__} has no {function}")


class Eight(Opaque):
    """The same, which says what it is made of, as torchao's do."""

    def __tensor_flatten__(self) -> Any:
        return ["numbers", "scale"], None


def quantised(kind: type[Opaque], seed: int = 0) -> Any:
    model = build(seed=seed)
    for module in model.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            weight = torch.nn.Parameter(kind.of(module.weight), requires_grad=False)
            module.weight = weight
    return model


def test_weights_of_a_tensor_class_are_identified_by_their_parts() -> None:
    model = quantised(Eight)
    with emoguard.attach(model, guard_for(model)) as watch:
        assert report(model, watch).status == "scored"
        model.model.layers[1].self_attn.q_proj.weight.scale.mul_(1.01)
        assert report(model, watch).status == "uncalibrated"
    identities = [
        HfHarness(each).open_residuals().identity.digest
        for each in (quantised(Eight), quantised(Eight), quantised(Eight, seed=1), build())
    ]
    assert len(set(identities)) == 3
    assert identities[0] == identities[1]


def test_weights_of_a_tensor_class_that_shows_nothing_are_refused_in_a_sentence() -> None:
    model = quantised(Opaque)
    before = sorted(vars(model))
    with pytest.raises(EmoGuardError, match=r"is a .*Opaque, which does not show what it is made"):
        emoguard.attach(model, Guard(make_probe(HfHarness(build()).open_residuals())))
    assert sorted(vars(model)) == before
    with pytest.raises(EmoGuardError, match="does not show what it is made of"):
        HfHarness(model).open_residuals()
