"""One fresh row per generated token, whatever way the tokens come about."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, StoppingCriteria, TextIteratorStreamer

import emoguard
from emoguard.guard import Guard
from emoguard.records import Report, Request
from emoguard.runtime.session import REQUEST
from emoguard.testing import make_probe
from tests.contract.hf_models import HfHarness, build

PROMPT = [5, 9, 17, 33, 8]
SHORT = [7, 50]


@pytest.fixture(scope="module")
def model() -> Any:
    return build("llama")


@pytest.fixture(scope="module")
def probe(model: Any) -> Any:
    return make_probe(HfHarness(model).open_residuals(), ("happy", "sad", "calm"))


@pytest.fixture
def watch(model: Any, probe: Any) -> Any:
    with emoguard.attach(model, Guard(probe)) as watch:
        yield watch


def batch(*prompts: list[int]) -> dict[str, torch.Tensor]:
    """Left-padded inputs, as a tokenizer makes them."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: Any, inputs: dict[str, torch.Tensor], tokens: int = 8, **more: Any) -> Any:
    options = {"do_sample": False, "max_new_tokens": tokens, "eos_token_id": None} | more
    out = model.generate(**inputs, **options)
    ids = out if isinstance(out, torch.Tensor) else out.sequences
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def tokens_of(report: Report) -> list[int]:
    """Check the law and return the ids the report's rows belong to."""
    assert report.status == "uncalibrated", (report.status, report.detail)
    assert report.tokens_scored == report.completion_tokens == len(report.tokens)
    return [token.id for token in report.tokens]


def rows_of(report: Report) -> Any:
    return np.array([token.z for token in report.tokens])


DETAIL = Request("r", scores="tokens")


def test_rows_of_a_left_padded_batch_equal_those_of_single_calls(model: Any, watch: Any) -> None:
    ids = generate(model, batch(PROMPT, SHORT), emoguard=DETAIL)
    together = list(watch.reports)
    assert [r.id for r in together] == ["r-0", "r-1"]
    assert {r.call for r in together} == {"r"}
    for row, (prompt, report) in enumerate(zip((PROMPT, SHORT), together, strict=True)):
        assert tokens_of(report) == ids[row]
        assert generate(model, batch(prompt), emoguard=DETAIL) == [ids[row]]
        alone = rows_of(watch.reports[-1])
        assert np.abs(alone - rows_of(report)).max() <= 1e-3 * np.abs(alone).max()


def test_a_row_ends_with_its_eos_while_others_go_on(model: Any, watch: Any) -> None:
    free = generate(model, batch(PROMPT, SHORT))
    eos = next(token for token in free[0][1:] if token not in free[1])
    stop = free[0].index(eos) + 1
    watch.reports.clear()
    # pad == eos, as in many chat models: the padding must not be taken for tokens.
    ids = generate(model, batch(PROMPT, SHORT), eos_token_id=eos, pad_token_id=eos, emoguard=DETAIL)
    first, second = watch.reports
    assert tokens_of(first) == ids[0][:stop]
    assert first.finish == "stop"
    assert tokens_of(second) == ids[1] == free[1]
    assert second.finish == "length"


def test_eos_at_the_last_possible_token_is_a_stop(model: Any, watch: Any) -> None:
    free = generate(model, batch(PROMPT), 3)
    generate(model, batch(PROMPT), 3, eos_token_id=free[0][-1], pad_token_id=0)
    assert watch.reports[-1].finish == "stop"


class StopRow(StoppingCriteria):
    """Ends one row after some tokens; counts its calls."""

    def __init__(self, row: int, length: int) -> None:
        self.row, self.length, self.calls = row, length, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.calls += 1
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        done[self.row] = input_ids.shape[1] >= self.length
        return done


def test_a_row_ended_by_the_callers_own_criterion_ends_there(model: Any, watch: Any) -> None:
    criterion = StopRow(1, len(PROMPT) + 3)
    values = [criterion]
    ids = generate(
        model,
        batch(PROMPT, SHORT),
        eos_token_id=254,
        pad_token_id=0,
        stopping_criteria=values,
        emoguard=DETAIL,
    )
    first, second = watch.reports
    assert tokens_of(first) == ids[0]
    assert tokens_of(second) == ids[1][:3]
    assert (first.finish, second.finish) == ("length", "stop")
    assert values == [criterion]
    assert criterion.calls == 8


def test_the_callers_logits_processor_decides_as_before(model: Any, watch: Any) -> None:
    class Only(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            forced = torch.full_like(scores, -torch.inf)
            forced[:, 42] = 0
            return forced

    ids = generate(model, batch(PROMPT), 4, logits_processor=[Only()], emoguard=DETAIL)
    assert ids == [[42] * 4]
    assert tokens_of(watch.reports[-1]) == ids[0]


def test_every_returned_sequence_is_a_report(model: Any, watch: Any) -> None:
    torch.manual_seed(0)
    ids = generate(
        model, batch(PROMPT, SHORT), do_sample=True, num_return_sequences=3, emoguard=DETAIL
    )
    assert [tokens_of(report) for report in watch.reports] == ids
    assert len(ids) == 6


def test_sampling_draws_the_same_tokens_under_a_watch(model: Any, probe: Any) -> None:
    torch.manual_seed(3)
    clean = generate(model, batch(PROMPT), 12, do_sample=True)
    with emoguard.attach(model, Guard(probe)):
        torch.manual_seed(3)
        assert generate(model, batch(PROMPT), 12, do_sample=True) == clean


def test_one_request_per_row(model: Any, watch: Any) -> None:
    requests = [Request("a", conversation="c"), Request("b", scores="tokens")]
    generate(model, batch(PROMPT, SHORT), emoguard=requests)
    first, second = watch.reports
    assert (first.id, first.conversation, first.tokens) == ("a", "c", ())
    assert (second.id, second.conversation, len(second.tokens)) == ("b", None, 8)


def test_the_request_of_the_context_is_used(model: Any, watch: Any) -> None:
    token = REQUEST.set(Request("from-context"))
    try:
        generate(model, batch(PROMPT))
    finally:
        REQUEST.reset(token)
    assert watch.reports[-1].id == "from-context"


@pytest.mark.parametrize(
    "options",
    [
        {"prefill_chunk_size": 2},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"return_dict_in_generate": True, "output_hidden_states": True, "output_scores": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_run_the_model_give_the_same_rows(
    model: Any, watch: Any, options: dict[str, Any]
) -> None:
    plain = generate(model, batch(PROMPT), emoguard=DETAIL)
    ids = generate(model, batch(PROMPT), emoguard=DETAIL, **options)
    first, second = watch.reports
    assert ids == plain
    assert tokens_of(second) == ids[0]
    assert np.allclose(rows_of(first), rows_of(second), atol=1e-3)


def test_outputs_asked_for_are_those_without_a_watch(model: Any, probe: Any) -> None:
    options = {
        "max_new_tokens": 4,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_hidden_states": True,
        "output_logits": True,
    }
    clean = model.generate(**batch(PROMPT), **options)
    with emoguard.attach(model, Guard(probe)):
        watched = model.generate(**batch(PROMPT), **options)
    assert all(map(torch.equal, clean.logits, watched.logits))
    assert torch.equal(clean.hidden_states[-1][2], watched.hidden_states[-1][2])
    assert torch.equal(clean.sequences, watched.sequences)


def test_positional_inputs_and_embeddings_are_read(model: Any, watch: Any) -> None:
    inputs = batch(PROMPT)
    out = model.generate(inputs["input_ids"], max_new_tokens=4, do_sample=False, emoguard=DETAIL)
    assert tokens_of(watch.reports[-1]) == out[0, len(PROMPT) :].tolist()
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    out = model.generate(
        inputs_embeds=embeddings, max_new_tokens=4, do_sample=False, emoguard=DETAIL
    )
    assert tokens_of(watch.reports[-1]) == out[0].tolist()


def test_a_generate_inside_a_generate_opens_no_second_session(model: Any, watch: Any) -> None:
    class Nested(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            model.generate(torch.tensor([SHORT]), max_new_tokens=2, do_sample=False)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    plain = generate(model, batch(PROMPT), emoguard=DETAIL)
    ids = generate(model, batch(PROMPT), stopping_criteria=[Nested()], emoguard=DETAIL)
    first, second = watch.reports
    assert ids == plain
    assert tokens_of(second) == ids[0]
    assert np.array_equal(rows_of(first), rows_of(second))


def test_two_threads_on_one_model_keep_their_own_rows(model: Any, watch: Any) -> None:
    generate(model, batch(PROMPT), 24, emoguard=Request("p", scores="tokens"))
    generate(model, batch(SHORT), 24, emoguard=Request("s", scores="tokens"))
    alone = {report.id: rows_of(report) for report in watch.reports}
    watch.reports.clear()

    def run(name: str, prompt: list[int]) -> None:
        for _ in range(4):
            generate(model, batch(prompt), 24, emoguard=Request(name, scores="tokens"))

    threads = [threading.Thread(target=run, args=a) for a in (("p", PROMPT), ("s", SHORT))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(watch.reports) == 8
    for report in watch.reports:
        assert len(tokens_of(report)) == 24
        assert np.allclose(rows_of(report), alone[report.id], atol=1e-4)


def test_generation_after_inference_mode_is_read(model: Any, watch: Any) -> None:
    with torch.inference_mode():
        generate(model, batch(PROMPT), emoguard=DETAIL)
    generate(model, batch(PROMPT), emoguard=DETAIL)
    first, second = watch.reports
    assert tokens_of(first) == tokens_of(second)


class Characters:
    """The part of a tokenizer that a text streamer uses."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(chr(65 + int(i) % 26) for i in ids)


def test_the_report_is_complete_when_the_stream_ends(model: Any, watch: Any) -> None:
    for turn in range(20):
        streamer = TextIteratorStreamer(Characters(), skip_prompt=True)
        request = Request(f"turn {turn}", scores="tokens")
        thread = threading.Thread(
            target=generate,
            args=(model, batch(PROMPT), 5),
            kwargs={"streamer": streamer, "emoguard": request},
        )
        thread.start()
        text = "".join(streamer)
        assert watch.reports[-1].id == request.id
        assert len(tokens_of(watch.reports[-1])) == 5
        assert text
        thread.join()


class Ending:
    """A streamer that does something when its stream has ended."""

    def __init__(self, then: Any) -> None:
        self.then, self.at_end = then, 0

    def put(self, value: Any) -> None:
        """Take tokens."""

    def end(self) -> None:
        self.then()


def test_a_streamer_given_by_position_has_its_report_at_the_end(model: Any, watch: Any) -> None:
    seen: list[int] = []
    streamer = Ending(lambda: seen.append(len(watch.reports)))
    inputs = batch(PROMPT)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    model.generate(inputs["input_ids"], *[None] * 6, streamer, **options)
    assert seen == [1]
    assert len(watch.reports) == 1


def test_generations_begun_at_the_end_of_a_stream_are_responses_of_their_own(
    model: Any, watch: Any
) -> None:
    plain = generate(model, batch(SHORT), emoguard=DETAIL)
    later = [Request(turn, scores="tokens") for turn in ("second", "third")]
    results: list[Any] = []

    def follow_up() -> None:
        results.extend(generate(model, batch(SHORT), emoguard=request) for request in later)

    watch.reports.clear()
    outer = Request("first", scores="tokens")
    ids = generate(model, batch(PROMPT), streamer=Ending(follow_up), emoguard=outer)
    assert results == [plain, plain]
    assert [report.id for report in watch.reports] == ["first", "second", "third"]
    assert [tokens_of(report) for report in watch.reports] == [ids[0], plain[0], plain[0]]
    assert watch.live() is None
    assert len(tokens_of_next(model, watch)) == 8


class Cutting:
    """A streamer whose reader goes away, and that looks at what is being read."""

    def __init__(self, error: BaseException, watch: Any) -> None:
        self.error, self.watch, self.puts, self.seen = error, watch, 0, None

    def put(self, value: Any) -> None:
        self.puts += 1
        if self.puts == 4:
            self.seen = self.watch.live()
            raise self.error

    def end(self) -> None:
        """Never reached."""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("client went away")], ids=repr)
def test_an_interrupted_generation_keeps_its_readings(
    model: Any, watch: Any, error: BaseException
) -> None:
    streamer = Cutting(error, watch)
    with pytest.raises(type(error)):
        generate(model, batch(PROMPT), streamer=streamer, emoguard=DETAIL)
    report = watch.reports[-1]
    assert (report.status, report.finish) == ("cancelled", "cancelled")
    assert report.tokens_scored == report.completion_tokens == 3
    assert report.scores
    assert streamer.seen is not None
    assert len(streamer.seen.token_ids) == 3
    assert np.isfinite(streamer.seen.rows).all()
    assert watch.live() is None
    assert len(tokens_of_next(model, watch)) == 8


def tokens_of_next(model: Any, watch: Any) -> list[int]:
    generate(model, batch(PROMPT), emoguard=DETAIL)
    return tokens_of(watch.reports[-1])


def test_overhead_is_shared_among_the_rows_of_a_batch(model: Any, watch: Any) -> None:
    generate(model, batch(*[PROMPT] * 16), 4)
    generate(model, batch(PROMPT), 4)
    *rows, single = [report.overhead_seconds for report in watch.reports]
    assert all(seconds > 0 for seconds in (*rows, single))
    assert max(rows) < single


def test_reports_are_kept_up_to_the_policys_number(model: Any, probe: Any) -> None:
    from emoguard.policy.policy import Policy

    with emoguard.attach(model, Guard(probe, policy=Policy(keep_reports=2))) as watch:
        for turn in range(3):
            generate(model, batch(PROMPT), 2, emoguard=Request(str(turn)))
        assert [report.id for report in watch.reports] == ["1", "2"]
