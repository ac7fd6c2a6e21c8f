"""A watch on a compiled model: torch.compile does not look at hooks by itself."""

import numpy as np
import pytest
import torch
from emoguard_transformers.compiled import forget_compiled

import emoguard
from emoguard import Guard, Request
from emoguard.testing import make_probe
from tests.contract.hf_models import HfHarness, build

IDS = torch.tensor([[5, 9, 17, 33, 8]])
STATIC = {"cache_implementation": "static", "disable_compile": True}

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:.*cpp_wrapper|.*TF32|.*isinstance:UserWarning"),
]


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compile_forward(model, backend="eager", **options):
    model.forward = torch.compile(model.forward, backend=backend, **options)


def compile_module(model, backend="eager", **options):
    model.compile(backend=backend, **options)


def generate(model, tokens=6, **how):
    how = {"do_sample": False, "min_new_tokens": tokens} | STATIC | how
    return model.generate(
        input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=tokens, **how
    )


def guard_for(model):
    return Guard(make_probe(HfHarness(model).open_residuals(), ("happy", "sad")))


def z_of(report):
    return np.array([token.z for token in report.tokens])


@pytest.mark.parametrize("compile_it", [compile_forward, compile_module])
def test_first_and_second_attach_read_every_token(compile_it):
    model = build(num_hidden_layers=4)
    guard = guard_for(model)
    with emoguard.attach(model, guard) as watch:
        plain = generate(model, emoguard=Request(scores="tokens"))
        wanted = z_of(watch.reports[-1])
    compile_it(model)
    generate(model)  # compiled without a watch: this code knows no hook
    for _ in range(2):
        with emoguard.attach(model, guard) as watch:
            assert torch.equal(generate(model, emoguard=Request(scores="tokens")), plain)
            report = watch.reports[-1]
            assert report.status == "uncalibrated", report.detail
            assert report.tokens_scored == 6
            assert np.allclose(z_of(report), wanted, atol=1e-3)
        assert torch.equal(generate(model), plain)


def test_the_hook_traces_into_one_graph():
    model = build(num_hidden_layers=4)
    guard = guard_for(model)
    compile_forward(model, fullgraph=True)
    with emoguard.attach(model, guard) as watch:
        generate(model)
        assert watch.reports[-1].tokens_scored == 6


@pytest.mark.parametrize("compile_it", [compile_forward, compile_module])
@pytest.mark.parametrize("first", ["the other", "the watched one"])
def test_code_made_for_another_model_of_the_class_does_not_hide_the_reading(compile_it, first):
    other, model = build(num_hidden_layers=4), build(num_hidden_layers=4)
    torch._dynamo.config.skip_nnmodule_hook_guards = True  # as a fresh process has it
    plain = generate(other)
    with emoguard.attach(model, guard_for(model)) as watch:
        for each in (other, model):
            compile_it(each)
        for each in (other, model) if first == "the other" else (model, other):
            generate(each)
        for _ in range(2):
            generate(model)
            assert watch.reports[-1].tokens_scored == 6
            assert torch.equal(generate(other), plain)
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        generate(model)
        generate(other)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
        assert all(report.tokens_scored == 6 for report in watch.reports), watch.reports


def test_further_generations_do_not_compile_again():
    model = build(num_hidden_layers=4)
    guard = guard_for(model)
    compile_forward(model)
    with emoguard.attach(model, guard) as watch:
        for _ in range(2):
            generate(model)
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for _ in range(3):
            generate(model)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
        assert [r.tokens_scored for r in watch.reports] == [6] * 5


@pytest.mark.parametrize("compile_it", [compile_forward, compile_module])
def test_after_detach_compiled_logits_equal_a_never_attached_models(compile_it):
    never, model = build(num_hidden_layers=4), build(num_hidden_layers=4)
    for each in (never, model):
        compile_it(each)
    with torch.no_grad():
        wanted = never(IDS).logits
        with emoguard.attach(model, guard_for(model)):
            generate(model)
            assert torch.allclose(model(IDS).logits, wanted, atol=1e-3)
        assert torch.equal(model(IDS).logits, wanted)


def test_generates_own_compilation_of_a_static_cache_is_forgotten_too():
    model = build(num_hidden_layers=4)
    guard = guard_for(model)
    model._compiled_call = torch.compile(model.__call__, backend="eager")
    generate(model)
    with emoguard.attach(model, guard) as watch:
        assert "_compiled_call" not in vars(model)
        generate(model)
        assert watch.reports[-1].tokens_scored == 6


def test_inductor_reads_every_token_and_leaves_the_ids():
    model = build(num_hidden_layers=4)
    guard = guard_for(model)
    plain = generate(model)
    compile_forward(model, backend="inductor")
    with emoguard.attach(model, guard) as watch:
        assert torch.equal(generate(model), plain)
        assert watch.reports[-1].tokens_scored == 6


def test_forgetting_a_model_that_was_never_compiled_is_harmless():
    model = build(num_hidden_layers=4)
    wanted = generate(model)
    forget_compiled(model, model.model.layers)
    assert torch.equal(generate(model), wanted)
