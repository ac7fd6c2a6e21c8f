"""What the watch on a Transformers model promises beyond the contract, on tiny random models."""

import threading

import emoguard_transformers
import numpy as np
import pytest
import torch
from emoguard_transformers import generate as generate_module
from emoguard_transformers.run import Run
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
    TextIteratorStreamer,
)

import emoguard
from emoguard import EmoGuardError, Guard, Plan, Policy, Request
from emoguard.testing import make_calibration, make_probe
from tests.contract.hf_models import HfHarness, build

IDS = torch.tensor([[5, 9, 17, 33, 8], [7, 50, 120, 99, 3], [11, 12, 13, 14, 15]])
MASK = torch.ones_like(IDS)
TOKENS = Request(scores="tokens")


@pytest.fixture
def model():
    return build()


def probe_for(model):
    return make_probe(HfHarness(model).open_residuals(), ("happy", "sad", "calm"))


def watched(model, **policy):
    return emoguard.attach(model, Guard(probe_for(model), policy=Policy(**policy)))


def generate(model, ids=IDS[:1], tokens=6, **how):
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False} | how
    return model.generate(input_ids=ids, max_new_tokens=tokens, **how)


def z_of(report):
    return np.array([token.z for token in report.tokens])


def complete(report, tokens):
    return (
        report.status == "uncalibrated"
        and report.tokens_scored == report.completion_tokens == tokens
        and report.detail is None
    )


class StopAt(StoppingCriteria):
    """Ends chosen rows at chosen lengths, as a caller's own criterion would."""

    def __init__(self, lengths):
        self.lengths = torch.tensor(lengths)
        self.calls = 0

    def __call__(self, input_ids, scores, **kwargs):
        self.calls += 1
        return self.lengths <= input_ids.shape[1] - IDS.shape[1]


@pytest.mark.parametrize("pad", [0, 2])
def test_rows_that_end_early_count_only_their_own_tokens(model, pad):
    model.generation_config.pad_token_id = pad
    own = StopAt([2, 9, 4])
    with watched(model) as watch:
        out = generate(model, IDS, 6, min_new_tokens=6, stopping_criteria=[own], emoguard=TOKENS)
    assert [r.completion_tokens for r in watch.reports] == [2, 6, 4]
    assert [r.finish for r in watch.reports] == ["stop", "length", "stop"]
    assert own.calls == 6
    for row, report in enumerate(watch.reports):
        assert complete(report, report.completion_tokens)
        ids = [t.id for t in report.tokens]
        assert ids == out[row, IDS.shape[1] :].tolist()[: len(ids)]


def test_a_wrong_number_of_requests_is_refused_before_generation(model):
    with watched(model) as watch:
        with pytest.raises(EmoGuardError, match="one for each of 3 sequences, got 2"):
            generate(model, IDS, emoguard=[Request(), Request()])
        assert not watch.reports
        generate(model, min_new_tokens=6)
        assert complete(watch.reports[-1], 6)


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 2},
        {"assistant_model": "itself"},
        {"guidance_scale": 2.0},
        {"num_beams": 2, "do_sample": True},
    ],
    ids=str,
)
def test_modes_without_one_row_per_token_are_refused_or_skipped(model, how):
    if "assistant_model" in how:
        how = {"assistant_model": build(seed=0)}
    torch.manual_seed(0)
    plain = generate(model, **how)
    with watched(model) as watch, pytest.raises(EmoGuardError, match="no one reading per token"):
        generate(model, **how)
    assert not watch.reports
    torch.manual_seed(0)
    with watched(model, on_unsupported="skip") as watch:
        assert torch.equal(generate(model, **how), plain)
    (report,) = watch.reports
    assert report.status == "skipped"
    assert not report.scores


def chosen_in_two_passes(model, input_ids, stopping_criteria=None, **_):
    """Choose tokens as a caller's own loop might: the pass of a token is not its last."""
    while True:
        logits = model(input_ids=input_ids).logits[:, -1]
        logits = logits - 0.1 * model(input_ids=input_ids.flip(1)).logits[:, -1]
        input_ids = torch.cat([input_ids, logits.argmax(-1)[:, None]], 1)
        if stopping_criteria(input_ids, None).all():
            return input_ids


OPTIONS = {"attention_mask": MASK[:1], "do_sample": False, "max_new_tokens": 6}


@pytest.mark.parametrize(
    ("position", "what", "why"),
    [
        (6, lambda: build(seed=0), "assisted generation has"),
        (10, lambda: chosen_in_two_passes, "a custom_generate loop has"),
    ],
    ids=["assistant", "loop"],
)
def test_positional_arguments_are_refused_or_skipped_like_named_ones(model, position, what, why):
    args = (IDS[:1], *[None] * (position - 1), what())
    plain = model.generate(*args, **OPTIONS)
    with watched(model) as watch, pytest.raises(EmoGuardError, match=why):
        model.generate(*args, **OPTIONS)
    assert not watch.reports
    with watched(model, on_unsupported="skip") as watch:
        assert torch.equal(model.generate(*args, **OPTIONS), plain)
    (report,) = watch.reports
    assert (report.status, report.scores) == ("skipped", {})
    assert report.detail.startswith(why)


def test_a_callers_own_loop_is_refused_by_name_and_never_steered_by_a_plan(model):
    loop = {"custom_generate": chosen_in_two_passes}
    with watched(model) as watch:
        with pytest.raises(EmoGuardError, match=r"a custom_generate loop .*on_unsupported: skip"):
            generate(model, **loop)
        assert not watch.reports
        generate(model, min_new_tokens=6)
        assert complete(watch.reports[-1], 6)
    guard = Guard(
        probe_for(model),
        [make_calibration(probe_for(model), HfHarness(model).open_residuals().identity)],
        Policy(on_unsupported="skip"),
    )
    with emoguard.attach(model, guard), pytest.raises(EmoGuardError, match="cannot be steered"):
        generate(model, emoguard=Request(plan=Plan(add={"happy": 0.1})), **loop)


@pytest.mark.parametrize("position", [6, 10])
def test_a_wrapper_hides_no_argument(model, position):
    inner = model.generate

    def wrapper(*args, **kwargs):
        return inner(*args, **kwargs)

    model.generate = wrapper
    what = build(seed=0) if position == 6 else chosen_in_two_passes
    with watched(model), pytest.raises(EmoGuardError, match="no one reading per token"):
        model.generate(IDS[:1], *[None] * (position - 1), what, **OPTIONS)


def test_a_loop_that_a_delegating_generate_chooses_is_refused(model):
    inner = model.generate

    def delegating(*args, **kwargs):
        if "custom_generate" in kwargs:
            return inner(*args, **kwargs)
        return model.generate(*args, custom_generate=chosen_in_two_passes, **kwargs)

    model.generate = delegating
    with watched(model) as watch, pytest.raises(EmoGuardError, match="custom_generate"):
        generate(model)
    assert not watch.reports


def test_prompts_that_a_wrapper_calls_otherwise_are_found(model):
    inner = model.generate

    def wrapper(prompts, **inputs):
        return inner(prompts, **inputs)

    model.generate = wrapper
    with watched(model) as watch:
        model.generate(IDS, min_new_tokens=6, **OPTIONS | {"attention_mask": MASK})
    assert len(watch.reports) == 3
    assert all(complete(report, 6) for report in watch.reports)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_is_read_in_float32_and_left_untouched(dtype):
    model = build().to(dtype)
    plain = generate(model, IDS, 5, min_new_tokens=5)
    with watched(model) as watch:
        assert torch.equal(generate(model, IDS, 5, min_new_tokens=5), plain)
    assert all(complete(r, 5) for r in watch.reports)


class Words:
    """The least a TextIteratorStreamer needs of a tokenizer."""

    def decode(self, ids, **_):
        return " ".join(map(str, ids)) + " "


def test_a_streamer_in_another_thread(model):
    with watched(model) as watch:
        streamer = TextIteratorStreamer(Words(), skip_prompt=True)
        request = Request()
        thread = threading.Thread(
            target=generate,
            args=(model,),
            kwargs={"streamer": streamer, "emoguard": request, "min_new_tokens": 6},
        )
        thread.start()
        text = "".join(streamer)
        assert text.split()
        assert watch.reports[-1].id == request.id
        assert complete(watch.reports[-1], 6)
        thread.join()


class Look(StoppingCriteria):
    def __init__(self, watch):
        self.watch, self.seen = watch, []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(self.watch.live())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_live_shows_the_rows_so_far(model):
    with watched(model) as watch:
        look = Look(watch)
        generate(model, stopping_criteria=[look], min_new_tokens=6, emoguard=TOKENS)
        assert [len(reading.rows) for reading in look.seen] == list(range(6))
        assert np.array_equal(look.seen[-1].rows, z_of(watch.reports[-1])[:5].astype(np.float32))


class Asking(LogitsProcessor):
    """A caller's own code that runs the model between a pass and its commit."""

    def __init__(self, model):
        self.model, self.answers = model, []

    def __call__(self, input_ids, scores):
        self.put()
        return scores

    def put(self, _token=None):
        with torch.no_grad():
            self.answers.append(self.model(torch.tensor([[7, 50]])).logits)

    def end(self):
        pass


class AskingCriterion(Asking, StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        self.put()
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(
    ("where", "kind"),
    [("logits_processor", Asking), ("stopping_criteria", AskingCriterion), ("streamer", Asking)],
)
def test_calls_of_the_model_by_the_callers_code_are_neither_read_nor_steered(model, where, kind):
    door = HfHarness(model).open_residuals()
    probe = probe_for(model)
    guard = Guard(probe, [make_calibration(probe, door.identity)])
    request = Request(plan=Plan(add={"happy": 0.1}), scores="tokens")
    asking = kind(model)
    asking.put()
    with emoguard.attach(model, guard) as watch:
        plain = generate(model, min_new_tokens=6, emoguard=request)
        value = asking if where == "streamer" else [asking]
        assert torch.equal(
            generate(model, min_new_tokens=6, emoguard=request, **{where: value}), plain
        )
        wanted, actual = watch.reports
    assert actual.tokens == wanted.tokens
    assert actual.receipt == wanted.receipt
    assert actual.receipt.applied == 6
    assert len(asking.answers) >= 7
    assert all(torch.equal(answer, asking.answers[0]) for answer in asking.answers)


def test_a_generation_inside_a_processor_is_silent(model):
    class Generating(LogitsProcessor):
        def __call__(self, input_ids, scores):
            generate(model, IDS[1:2], 2)
            return scores

    with watched(model) as watch:
        generate(model, min_new_tokens=6, emoguard=TOKENS)
        generate(model, min_new_tokens=6, logits_processor=[Generating()], emoguard=TOKENS)
        first, second = watch.reports
    assert second.tokens == first.tokens


def test_a_hook_that_does_not_fire_makes_the_report_incomplete(model):
    with watched(model) as watch:
        block = model.model.layers[1]
        hooks = dict(block._forward_hooks)
        block._forward_hooks.clear()
        generate(model, min_new_tokens=6)
        block._forward_hooks.update(hooks)
    (report,) = watch.reports
    assert report.status == "incomplete"
    assert report.tokens_scored == 0
    assert not report.scores


@pytest.mark.parametrize("where", ["commit", "settle"])
def test_a_fault_in_commit_or_close_changes_nothing(model, where, monkeypatch):
    plain = generate(model, IDS, 6)

    def broken(*_, **__):
        raise RuntimeError("injected")

    with watched(model) as watch:
        monkeypatch.setattr(Run, where, broken)
        assert torch.equal(generate(model, IDS, 6), plain)
    report = watch.reports[-1]
    assert report.status == "error"
    assert "injected" in report.detail
    assert report.faults == ("reading",)


def test_rows_that_the_batch_size_did_not_announce_are_an_error_not_a_crash(model, monkeypatch):
    plain = generate(model, IDS, 6)
    monkeypatch.setattr(generate_module, "batch_size", lambda *_: 1)
    with watched(model) as watch:
        assert torch.equal(generate(model, IDS, 6), plain)
    assert watch.reports[-1].status == "error"


def test_generation_from_embeddings_and_from_nothing(model):
    with watched(model) as watch:
        embeds = model.get_input_embeddings()(IDS)
        model.generate(inputs_embeds=embeds, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert all(complete(r, 4) for r in watch.reports)
        assert len(watch.reports) == 3
        model.generate(max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert complete(watch.reports[-1], 4)


def test_a_calibrated_model_gives_z_and_ranks_whether_or_not_its_tokenizer_is_known(model):
    class Tokenizer(Words):
        chat_template = "a template"

        def get_vocab(self):
            return {"<think>": 40, "</think>": 41}

    door = HfHarness(model, Tokenizer()).open_residuals()
    probe = probe_for(model)
    guard = Guard(probe, [make_calibration(probe, door.identity)])
    for options in ({}, {"tokenizer": Tokenizer()}):
        with emoguard.attach(model, guard, **options) as watch:
            generate(model, min_new_tokens=6)
            report = watch.reports[-1]
            assert report.status == "scored"
            assert all(0 <= score.rank <= 1 for score in report.scores.values())

    class Other(Tokenizer):
        chat_template = "another template"

    with emoguard.attach(model, guard, tokenizer=Other()) as watch:
        generate(model)
        assert watch.reports[-1].status == "uncalibrated"
    with emoguard.attach(
        build(seed=1), Guard(probe_for(build(seed=1)), guard.calibrations)
    ) as watch:
        generate(watch.joint.model)
        assert watch.reports[-1].status == "uncalibrated"


OPEN, CLOSE = 40, 41


class Marked(Words):
    """A tokenizer with marks of reasoning and a template that ends its prompts in `end`."""

    def __init__(self, end=None, opening=OPEN):
        self.chat_template = "it knows <think>" if end is not None else ""
        self.end = end
        self.opening = opening

    def get_vocab(self):
        return {"<think>": self.opening, "</think>": CLOSE}

    def apply_chat_template(self, messages, *, add_generation_prompt, tokenize):
        assert (add_generation_prompt, tokenize) == (True, False)
        return f"{messages[-1]['content']} assistant: {self.end}"


def reasoning(model, ids, tokenizer, tokens=8, **how):
    with emoguard.attach(model, Guard(probe_for(model)), tokenizer=tokenizer) as watch:
        generate(model, torch.tensor([ids]), tokens, min_new_tokens=tokens, **how)
    return watch.reports[-1].reasoning == "unclosed"


@pytest.mark.parametrize(
    ("end", "opens"),
    [(None, True), ("", False), ("<think>", True), ("<think>\n", True), ("<think></think>", False)],
)
def test_a_prompts_end_opens_reasoning_where_its_template_may_have_written_it(model, end, opens):
    assert reasoning(model, [5, 9, OPEN], Marked(end)) == opens
    assert not reasoning(model, [5, OPEN, 9], Marked(end))
    assert not reasoning(model, [5, OPEN, CLOSE], Marked(end))


@pytest.mark.parametrize(("place", "opened"), [(0, True), (1, False), (2, False)])
def test_a_model_opens_reasoning_before_its_answer_only(model, place, opened):
    free = generate(model, IDS[:1], 8, min_new_tokens=8)[0, IDS.shape[1] :].tolist()
    assert len(set(free[:3])) == 3
    assert reasoning(model, IDS[0].tolist(), Marked(opening=free[place])) == opened


def test_padding_is_no_part_of_a_prompt(model):
    ids = torch.tensor([[0, 0, 5, OPEN], [7, OPEN, 9, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with emoguard.attach(model, Guard(probe_for(model)), tokenizer=Marked()) as watch:
        generate(model, ids, 6, min_new_tokens=6, attention_mask=mask)
        generate(model, ids.flip(1), 6, min_new_tokens=6, attention_mask=mask.flip(1))
    results = [report.reasoning for report in watch.reports]
    assert results == ["unclosed", "marked", "marked", "marked"]


def test_a_dispatched_model_is_read_too(model):
    accelerate = pytest.importorskip("accelerate")
    plain = generate(model, min_new_tokens=6)
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    with watched(model) as watch:
        assert torch.equal(generate(model, min_new_tokens=6), plain)
    assert complete(watch.reports[-1], 6)
    assert torch.equal(generate(model, min_new_tokens=6), plain)


def test_objects_that_are_no_model_are_refused_and_left_as_they_were():
    model = build()
    probe = probe_for(model)
    for wrong in (model.model, build(num_hidden_layers=5), build(hidden_size=40, head_dim=10)):
        before = sorted(vars(wrong))
        with pytest.raises(EmoGuardError):
            emoguard.attach(wrong, Guard(probe))
        assert sorted(vars(wrong)) == before
    other = build()
    other.config.model_type = "opt"
    with pytest.raises(EmoGuardError, match="opt"):
        emoguard.attach(other, Guard(probe))


@pytest.mark.parametrize("wrong", ["yes", True, {"id": "a"}, [TOKENS, "yes"], iter([TOKENS])])
def test_a_request_of_the_wrong_kind_is_refused(model, wrong):
    with watched(model) as watch, pytest.raises(TypeError, match=r"emoguard\.Request, got "):
        generate(model, emoguard=wrong)
    assert not watch.reports


@pytest.mark.parametrize("requests", [[], [TOKENS, TOKENS]])
@pytest.mark.parametrize("beams", [1, 2])
def test_a_list_of_requests_of_another_length_is_refused(model, requests, beams):
    policy = {"on_unsupported": "skip"}
    if requests and beams > 1:
        pytest.skip("an unread generation makes one report for each request")
    with watched(model, **policy) as watch:
        with pytest.raises(EmoGuardError, match=r"emoguard= must be one Request or one for each"):
            generate(model, num_beams=beams, emoguard=requests)
        assert not watch.reports


@pytest.mark.parametrize("tokenizer", ["gpt2", 3, object(), dict])
def test_an_argument_that_is_not_a_tokenizer_is_named(model, tokenizer):
    guard = Guard(probe_for(model))
    for call in (
        lambda: emoguard.attach(model, guard, tokenizer=tokenizer),
        lambda: emoguard.attach(model, tokenizer=tokenizer),
        lambda: emoguard_transformers.open_residuals(model, tokenizer),
    ):
        with pytest.raises(EmoGuardError, match="tokenizer: wanted a tokenizer, got "):
            call()
    with pytest.raises(EmoGuardError, match=r"backend: unknown option .* known options: tokenizer"):
        emoguard.attach(model, guard, backend="native")
    with pytest.raises(EmoGuardError, match="guard: wanted a Guard, got"):
        emoguard.attach(model, "probe.safetensors")
    assert "_emoguard" not in vars(model)


def test_an_empty_prompt_is_refused_in_one_sentence(model):
    with watched(model) as watch:
        with pytest.raises(EmoGuardError, match="prompt is empty"):
            generate(model, IDS[:1, :0])
        assert not watch.reports
        generate(model, min_new_tokens=6)
        assert complete(watch.reports[-1], 6)
