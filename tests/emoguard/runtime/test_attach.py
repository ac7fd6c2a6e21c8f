from __future__ import annotations

import json
import logging
import sys
from importlib.resources.abc import Traversable

import pytest

import emoguard
from emoguard import EmoGuardError, Guard, Policy
from emoguard.probe import artifact, shipped
from emoguard.runtime import attach as registry
from emoguard.runtime.disabled import DisabledWatch
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    ListSink,
    make_probe,
    make_reading,
    make_report,
    put_reading,
)
from tests.support.plugin import fake_model, foreign, save_probe, shelf


@pytest.mark.parametrize("model", [None, object(), "model.gguf", lambda: None, 7])
def test_an_object_that_is_no_model_is_named_and_refused(model):
    with pytest.raises(EmoGuardError, match=r"transformers or vllm, got \w+ from builtins"):
        emoguard.attach(model)


def test_a_model_whose_library_is_missing_names_the_install_command(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("emoguard_llamacpp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(EmoGuardError, match="needs llama_cpp: pip install 'llama-cpp-python"):
        emoguard.attach(foreign("llama_cpp.llama"))


def test_a_subclass_of_a_model_finds_the_plugin_of_its_base():
    pytest.importorskip("llama_cpp")
    base = type("Llama", (), {"__module__": "llama_cpp.llama"})
    model = type("Mine", (base,), {"__module__": "my_application"})()
    plugin, inner = registry.find(model)
    assert plugin.__name__ == "emoguard_llamacpp"
    assert inner is model


def test_the_off_switch_attaches_nothing_and_says_so(monkeypatch, caplog):
    monkeypatch.setenv("EMOGUARD_DISABLE", "1")
    model = Answering()
    with caplog.at_level(logging.WARNING, "emoguard"), emoguard.attach(model) as watch:
        assert isinstance(watch, DisabledWatch)
        assert watch.live() is None
        assert not watch.reports
    assert [record.message for record in caplog.records] == [
        "EMOGUARD_DISABLE=1: EmoGuard is not attached"
    ]


class Answering:
    """Generates whatever it is asked, and knows no keyword of ours."""

    def generate(self, prompt, *, most=1):
        return prompt * most


class CalledItself(Answering):
    """Completes, and is called itself, as a Llama."""

    create_completion = Answering.generate

    def __call__(self, prompt, *, most=1):
        return self.create_completion(prompt, most=most)


def test_switched_off_a_model_that_is_called_itself_still_works(monkeypatch):
    monkeypatch.setenv("EMOGUARD_DISABLE", "1")
    model = CalledItself()
    with emoguard.attach(model):
        assert model("a", most=2, emoguard=emoguard.Request()) == "aa"
        with emoguard.attach(model):
            assert model("a", emoguard=None) == "a"
        assert model("a", emoguard=None) == "a"
    assert type(model) is CalledItself
    assert not vars(model)


def test_switched_off_calls_that_carry_a_request_still_work(monkeypatch):
    monkeypatch.setenv("EMOGUARD_DISABLE", "1")
    model = Answering()
    with emoguard.attach(model):
        assert model.generate("a", most=2, emoguard=emoguard.Request()) == "aa"
        with emoguard.attach(model):
            assert model.generate("a", emoguard=None) == "a"
        assert model.generate("a", emoguard=None) == "a"
    assert not vars(model)


@pytest.mark.parametrize("value", ["0", "", "true"])
def test_only_a_one_turns_emoguard_off(monkeypatch, value):
    monkeypatch.setenv("EMOGUARD_DISABLE", value)
    with pytest.raises(EmoGuardError):
        emoguard.attach(object())


class Compiled:
    """Keeps its model where torch.compile's wrapper keeps it."""

    def __init__(self, model: object) -> None:
        self._modules = {"_orig_mod": model}


def adapted(model: object) -> object:
    return foreign("peft.peft_model", get_base_model=lambda self: model)


def test_wrappers_are_taken_off_in_any_order():
    model = foreign("transformers.models.llama")
    assert registry.unwrap(Compiled(model)) is model
    assert registry.unwrap(adapted(model)) is model
    assert registry.unwrap(Compiled(adapted(Compiled(model)))) is model
    assert registry.unwrap(model) is model


def test_a_wrapper_that_returns_itself_ends_the_unwrapping():
    model = foreign("peft.tuners", get_base_model=lambda self: self)
    assert registry.unwrap(model) is model


def test_objects_without_attributes_are_not_wrappers():
    assert registry.unwrap(7) == 7


class ShiftedResiduals(FakeResiduals):
    """The same sizes, other numbers: every layer reads like the one below it."""

    def residuals(self, token_ids, layers):
        return super().residuals(token_ids, [max(0, layer - 1) for layer in layers])


def test_the_shipped_probe_that_fits_is_chosen(monkeypatch, tmp_path):
    probes, door = shelf(monkeypatch, tmp_path), FakeResiduals()
    wide = FakeResiduals(type(FAKE_IDENTITY)("wide", "fake", 6, 48, "F32", "1" * 64))
    save_probe(probes / "a-wide.safetensors", wide)
    save_probe(probes / "b-shifted.safetensors", ShiftedResiduals())
    save_probe(probes / "c-right.safetensors", door)
    guard = registry.shipped(door)
    assert isinstance(guard, Guard)
    assert guard.probe.name == artifact.load(probes / "c-right.safetensors")[0].name
    assert guard.calibration(door.identity) is not None


def test_a_model_without_shipped_probe_is_refused_with_the_shipped_ones(monkeypatch, tmp_path):
    probes = shelf(monkeypatch, tmp_path)
    save_probe(probes / "shifted.safetensors", ShiftedResiduals())
    with pytest.raises(EmoGuardError, match=r"no shipped probe fits fake .*shipped: shifted.* fit"):
        registry.shipped(FakeResiduals())


def test_without_any_shipped_probe_the_sentence_is_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path)
    assert shipped.shipped_files() == {}
    with pytest.raises(EmoGuardError, match="shipped: none"):
        registry.shipped(FakeResiduals())


def test_shipped_files_are_probe_files_by_name(monkeypatch, tmp_path):
    probes = shelf(monkeypatch, tmp_path)
    for name in ("b.safetensors", "a.safetensors", "README.md"):
        (probes / name).touch()
    actual = shipped.shipped_files()
    assert list(actual) == ["a", "b"]
    assert all(isinstance(file, Traversable) for file in actual.values())


@pytest.fixture
def model(tmp_path, monkeypatch) -> object:
    """A model object whose installed plug-in opens fake residuals; a probe that fits is shipped."""
    return fake_model(tmp_path, monkeypatch)


def test_a_guard_is_opened_with_everything_a_policy_file_names(model, tmp_path):
    log = {"path": f"{tmp_path}/log", "key_file": f"{tmp_path}/key", "create_key": True}
    policy = {"labels": ["sad"], "sinks": [{"jsonl": log}]}
    (tmp_path / "policy.yaml").write_text(json.dumps(policy))
    with emoguard.open_guard(model, tmp_path / "policy.yaml") as guard:
        assert guard.labels == ("sad",)
        assert guard.policy_file.path == tmp_path / "policy.yaml"
        report = put_reading(guard, make_reading(labels=1), emoguard.Request())
        assert report.scores["sad"].rank is not None
    assert (tmp_path / "log").read_text().count("\n") == 1
    with emoguard.open_guard(model, tmp_path / "policy.yaml"):  # the log was closed
        pass


def test_sinks_are_told_the_runtime_and_the_guard_has_the_callback(model, tmp_path):
    called = []
    policy = Policy(sinks=({"prometheus": {"port": 0}},))
    with emoguard.open_guard(model, policy, on_alert=called.append) as guard:
        (alert,) = ListSink(alerting=True).report(make_report())
        guard.outbox.alert(alert)
        assert guard.flush()
        assert called == [alert]
        assert guard.site(FAKE_IDENTITY, "fake").backend == "fake"


def test_a_guard_is_opened_with_a_probe_file_and_a_policy_object(model, tmp_path):
    door = FakeResiduals()
    save_probe(tmp_path / "mine.safetensors", door, layers=(3,))
    with emoguard.open_guard(
        model, Policy(sample_ratio=0.5), tmp_path / "mine.safetensors"
    ) as guard:
        assert guard.probe.layers == (3,)
        assert (guard.policy.sample_ratio, guard.policy_file) == (0.5, None)
    with emoguard.open_guard(model) as guard:
        assert guard.policy == Policy()


def test_a_guard_is_opened_with_a_mapping_and_a_shipped_probe_by_name(model):
    with emoguard.open_guard(model, {"labels": ["sad"]}, "fits") as guard:
        assert (guard.labels, guard.policy_file) == (("sad",), None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"policy": 3}, "policy: wanted a Policy, a mapping or the path of a YAML file, got 3"),
        ({"policy": "nowhere.yaml"}, "nowhere.yaml cannot be read"),
        ({"probe": "fit"}, "there is no probe fit: give a file, or one shipped here .fits."),
        ({"probe": make_probe(FakeResiduals())}, "got Probe"),
        ({"sinks": [ListSink()]}, r"sinks\.0: wanted a mapping, got ListSink"),
        ({"sinks": [{"rate": {}, "drift": {}}]}, r"sinks\.0 must be one name with its options"),
        ({"on_alert": "print"}, "on_alert: wanted a function"),
        ({"polcy": {}}, "polcy: unknown option for a Model; did you mean policy"),
        ({"backnd": "native"}, "backnd: unknown option for a Model; did you mean backend"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_argument_of_open_guard_is_named_before_anything_is_opened(model, arguments, sentence):
    with (
        pytest.raises(EmoGuardError, match=sentence),
        emoguard.open_guard(model, **arguments),
    ):
        pass


@pytest.mark.parametrize("guard", ["probe.safetensors", Policy(), make_probe(FakeResiduals()), 3])
def test_attach_names_an_argument_that_is_not_a_guard(model, guard):
    with pytest.raises(EmoGuardError, match=r"guard: wanted a Guard, got .*: make one with Guard"):
        emoguard.attach(model, guard)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("backnd", "backnd: unknown option for a Model; did you mean backend"),
        ("gaurd", "gaurd: unknown option for a Model; did you mean guard"),
        ("tokenizer", "tokenizer: unknown option for a Model; known options: backend"),
        ("policy", "policy: no option of attach: give it to emoguard.watch"),
    ],
)
def test_an_option_that_a_plugin_does_not_have_is_named(model, option, sentence):
    for guard in (None, Guard(make_probe(FakeResiduals()))):
        with pytest.raises(EmoGuardError, match=sentence):
            emoguard.attach(model, guard, **{option: "native"})


def test_sinks_that_only_the_policy_names_are_missed_aloud(model, caplog):
    probe, policy = make_probe(FakeResiduals()), {"sinks": [{"rate": {}}, {"drift": {}}]}
    emoguard.attach(model, Guard(probe, policy=policy, sinks=[ListSink()]))
    with emoguard.open_guard(model, policy) as guard:
        emoguard.attach(model, guard)
    missed = "the policy names sinks (rate, drift), but this guard has none"
    assert missed not in caplog.text
    emoguard.attach(model, Guard(probe, policy=policy))
    assert caplog.text.count(missed) == 1


def test_options_that_a_plugin_has_reach_it(model):
    guard = Guard(make_probe(FakeResiduals()))
    assert emoguard.attach(model, guard, backend="native").joint.asked == "native"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("labels: [glad]", "unknown label glad"),
        ("steering: {plan: {cap: {glad: .9}}}", "unknown label glad"),
        ("sinks: [{zzz: {}}]", "sinks.0.zzz: unknown"),
        ("zzz: 1", "zzz: unknown"),
    ],
)
def test_a_policy_that_does_not_fit_opens_nothing(model, tmp_path, text, sentence):
    (tmp_path / "policy.yaml").write_text(text)
    with (
        pytest.raises(EmoGuardError, match=sentence),
        emoguard.open_guard(model, tmp_path / "policy.yaml"),
    ):
        pass


def test_the_off_switch_opens_nothing(monkeypatch):
    monkeypatch.setenv("EMOGUARD_DISABLE", "1")
    model = object()
    with (
        emoguard.open_guard(model, "nowhere.yaml") as guard,
        emoguard.attach(model, guard) as watch,
    ):
        assert watch.live() is None
        assert isinstance(guard, Guard)


def test_switched_off_guard_and_watch_do_nothing_and_name_missing_attributes(monkeypatch):
    monkeypatch.setenv("EMOGUARD_DISABLE", "1")
    model = Answering()
    with emoguard.watch(model, "nowhere.yaml", "no-probe") as watch:
        assert isinstance(watch, emoguard.Watch)
        assert not watch.enabled
        assert watch.model is model
        assert watch.model.generate("a", emoguard=emoguard.Request()) == "a"
        guard = watch.guard
        assert (guard.labels, guard.monitored, list(guard.alerts)) == ((), (), [])
        guard.check(Policy(labels=("glad",)))
        guard.refresh()
        guard.deliver(make_report(), "field")
        guard.lost(make_report())
        assert guard.flush()
        assert watch.identity.name == watch.recheck().name == "not watched"
        watch.abandon("a")
        watch.check_plan({"add": {"glad": 1}})
        with watch.steering({"add": {"glad": 1}}), watch.recording() as reports:
            model.generate("a", emoguard=None)
        assert not reports
        assert not (watch.reports)
        with pytest.raises(AttributeError, match=r"EMOGUARD_DISABLE=1: .* no probe"):
            guard.probe  # noqa: B018


def test_one_block_opens_the_guard_and_attaches(model, tmp_path):
    log = {"path": f"{tmp_path}/log", "key_file": f"{tmp_path}/key", "create_key": True}
    policy = {"labels": ["sad"], "sinks": [{"jsonl": log}]}
    (tmp_path / "policy.yaml").write_text(json.dumps(policy))
    with emoguard.watch(
        model, policy=tmp_path / "policy.yaml", probe="fits", backend="native"
    ) as watch:
        assert watch.enabled
        assert watch.joint.asked == "native"
        assert watch.guard.labels == ("sad",)
        assert watch.guard.policy_file.path == tmp_path / "policy.yaml"
        watch.model.generate((1, 5, 9), 3, emoguard=emoguard.Request("mine"))
        assert watch.reports[-1].id == "mine"
        inner = watch.joint.model
        assert vars(inner)
    assert "generate" not in vars(inner)
    assert (tmp_path / "log").read_text().count('"mine"') >= 1  # flushed before it was closed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"policy": 3}, "policy: wanted a Policy"),
        ({"probe": "fit"}, "there is no probe fit"),
        ({"backnd": "native"}, "backnd: unknown option for a Model; did you mean backend"),
    ],
)
def test_a_block_that_cannot_begin_leaves_nothing_behind(model, arguments, sentence):
    with pytest.raises(EmoGuardError, match=sentence), emoguard.watch(model, **arguments):
        pass
