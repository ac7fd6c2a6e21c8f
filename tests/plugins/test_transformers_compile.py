"""A watch on a compiled model: torch.compile does not look at hooks by itself."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from emoguard_torch.compiled import SKIP, eager, forget_compiled
from emoguard_transformers.blocks import find_body
from torch._dynamo.eval_frame import _debug_get_cache_entry_list
from transformers import AutoConfig, AutoModelForImageTextToText, LogitsProcessor

import emoguard
from emoguard import Guard, Plan, Policy, Request
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import make_probe, measure_calibration
from tests.contract.hf_models import SIZES, HfHarness, build

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


def generate(model, tokens=6, ids=IDS, **how):
    how = {"do_sample": False, "min_new_tokens": tokens} | STATIC | how
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, **how
    )


def guard_for(model):
    return Guard(make_probe(HfHarness(model).open_residuals(), ("happy", "sad")))


def z_of(report):
    return np.array([token.z for token in report.tokens])


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture
def thread(monkeypatch):
    """Makes threads that find the compiler as in a process where nothing was watched yet."""
    monkeypatch.setattr(torch._dynamo.config._config[SKIP], "default", True)
    with ExitStack() as pools:

        def start():
            # Its one thread starts without what was set in this one.
            pool = pools.enter_context(ThreadPoolExecutor(1))
            return lambda do, *args, **how: pool.submit(do, *args, **how).result()

        yield start


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
        compiled = graphs()
        generate(model)
        generate(other)
        assert graphs() == compiled
        assert all(report.tokens_scored == 6 for report in watch.reports), watch.reports


def test_further_generations_do_not_compile_again():
    model = build(num_hidden_layers=4)
    guard = guard_for(model)
    compile_forward(model)
    with emoguard.attach(model, guard) as watch:
        for _ in range(2):
            generate(model)
        compiled = graphs()
        for _ in range(3):
            generate(model)
        assert graphs() == compiled
        assert [r.tokens_scored for r in watch.reports] == [6] * 5


def test_another_thread_compiles_nothing_again(thread):
    model = build(num_hidden_layers=4)
    compile_forward(model)
    with emoguard.attach(model, guard_for(model)) as watch:
        for _ in range(2):
            thread()(generate, model)
        compiled = graphs()
        for _ in range(2):
            thread()(generate, model)
        assert graphs() == compiled
        assert [r.tokens_scored for r in watch.reports] == [6] * 4


def test_code_that_another_thread_makes_for_another_model_does_not_hide_the_reading(thread):
    other, model = build(num_hidden_layers=4), build(num_hidden_layers=4)
    for each in (other, model):
        compile_forward(each)
    mine, theirs = thread(), thread()
    with emoguard.attach(model, guard_for(model)) as watch:
        mine(generate, model)
        torch._dynamo.reset()
        theirs(generate, other)
        mine(generate, model)
        assert [r.tokens_scored for r in watch.reports] == [6, 6]


def test_code_made_after_a_graph_break_does_not_hide_the_reading(thread):
    model = build(num_hidden_layers=4)
    model.model.embed_tokens.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    compile_forward(model)
    mine = thread()
    mine(generate, model)  # what comes after the break is another function to the compiler
    with emoguard.attach(model, guard_for(model)) as watch:
        mine(generate, model)
        assert watch.reports[-1].tokens_scored == 6


def compiled_of(model):
    """What the compiler keeps of calls of a model of this class."""
    functions = (torch.nn.Module._call_impl, type(model).forward)
    return [kept for each in functions for kept in _debug_get_cache_entry_list(each.__code__)]


class Detaching(LogitsProcessor):
    """Detaches a watch in the middle of a generation, and sees what is compiled then."""

    def __init__(self, model, watch):
        self.model, self.watch, self.compiled = model, watch, []

    def __call__(self, input_ids, scores):
        if len(self.compiled) == 2:
            self.watch.detach()
        self.compiled.append(len(compiled_of(self.model)))
        return scores


@pytest.mark.parametrize("compile_it", [compile_forward, compile_module])
def test_after_detach_compiled_code_is_forgotten_and_steers_no_more(compile_it):
    """In the middle of a generation, where code that still holds the hook would go on with it."""
    model = build(num_hidden_layers=4)
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, ("happy", "sad"))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    guard = Guard(probe, [measure_calibration(door, probe)], policy)
    plain = generate(model)
    compile_it(model)
    request = Request(plan=Plan(add={"happy": 0.3}))
    with emoguard.attach(model, guard) as watch:
        generate(model, emoguard=request)
        detaching = Detaching(model, watch)
        generate(model, emoguard=request, logits_processor=[detaching])
        whole, half = (report.receipt for report in watch.reports)
    before, after = detaching.compiled[1:3]
    assert before > after == 0
    assert (whole.applied, whole.faulted) == (6, 0)
    assert (half.applied, half.faulted) == (2, 0)
    assert watch.reports[-1].finish == "cancelled"
    assert torch.equal(generate(model), plain)


def build_multimodal():
    sizes = SIZES | {"num_hidden_layers": 4}
    sight = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "image_size": 8}
    sight |= {"num_attention_heads": 1, "patch_size": 4}
    config = {"text_config": sizes, "vision_config": sight, "mm_tokens_per_image": 4}
    whole = AutoConfig.for_model("gemma3", **config)
    return AutoModelForImageTextToText.from_config(whole).eval()


@pytest.mark.parametrize("prompt", [False, True])
def test_compiled_steering_leaves_attention_sinks_alone(prompt):
    model = build(num_hidden_layers=4)
    door = HfHarness(model).open_residuals()
    probe = make_probe(door, ("happy", "sad"))
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    guard = Guard(probe, [measure_calibration(door, probe)], policy)
    request = Request(plan=Plan(add={"happy": 0.3}, prompt=prompt), scores="tokens")
    prompts = [torch.tensor([ids]) for ids in ([7], [7] * 5, [7, 7, 9, 33, 8])]
    results = []
    for compile_it in (lambda _: None, compile_forward):
        compile_it(model)
        with emoguard.attach(model, guard) as watch:
            for ids in prompts * 2:
                generate(model, ids=ids, emoguard=request)
                report = watch.reports[-1]
                assert report.receipt.applied == 6 - report.attention_sinks
                assert report.receipt.faulted == 0
                results.append(z_of(report))
            before = graphs()
            generate(model, ids=prompts[0], emoguard=request)
            assert graphs() == before
    half = len(results) // 2
    assert all(np.allclose(a, b, atol=1e-3) for a, b in zip(results, results[half:], strict=False))


def test_code_of_a_body_below_another_is_forgotten():
    model = build_multimodal()
    body = find_body(model)
    assert body not in list(model.children())
    code = type(body).forward.__code__
    compile_forward(body)
    with torch.no_grad():
        model(IDS)
    assert _debug_get_cache_entry_list(code)
    forget_compiled(model, body, body.layers)
    assert not _debug_get_cache_entry_list(code)


def test_blocks_without_compilation_may_overlap():
    compiled = torch.compile(lambda x: x + torch.compiler.is_compiling(), backend="eager")
    first, second = eager(), eager()
    one = torch.zeros(1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert compiled(one) == 0
    second.__exit__(None, None, None)
    assert compiled(one) == 1


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
    forget_compiled(model, model.model, model.model.layers)
    assert torch.equal(generate(model), wanted)
