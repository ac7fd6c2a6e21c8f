"""Answers written together in llama.cpp are those that each prompt gets alone."""

import pytest

from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Prompt
from tests.support import tiny_gguf

pytest.importorskip("llama_cpp")

from emoguard_llamacpp import ctypes_llama, together

TEXTS = ["toast " * (3 * n + 1) for n in range(6)]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return open_speaker(tiny_gguf.write(folder / "tiny.gguf", "llama"), threads=1)


def margins(speaker, answer):
    """Return by how much each token of an answer is less likely than the likeliest, alone."""
    llm = speaker.model
    llm.reset()
    llm.eval(answer.prompt_ids)
    behind = []
    for token in answer.token_ids:
        logits = ctypes_llama.last_logits(llm, llm.ctx)
        behind.append(logits.max() - logits[token])
        llm.eval([token])
    return behind


def test_answers_that_end_make_room_and_change_no_other(speaker, monkeypatch):
    monkeypatch.setattr(ctypes_llama, "is_end", lambda _, token: token % 11 == 0)
    prompts = [Prompt(text, max_tokens=60, temperature=0) for text in TEXTS]
    moved, move = [], ctypes_llama.move_text

    def noted(context, text, number):
        moved.append((text, number))
        move(context, text, number)

    monkeypatch.setattr(ctypes_llama, "move_text", noted)
    answers = speaker.respond_together(prompts)
    assert moved
    assert len({len(each.token_ids) for each in answers}) > 2
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.prompt_ids == speaker.prompt_ids(prompt)
        assert not any(token % 11 == 0 for token in answer.token_ids)
        # Rounding differs in company: between equals another may be chosen, but no other token.
        assert max(margins(speaker, answer), default=0) < 0.01


def test_each_answer_is_drawn_with_its_own_seed(speaker):
    prompts = [Prompt(TEXTS[0], max_tokens=8, temperature=1.0, seed=seed) for seed in (1, 2, 1)]
    first, second, again = (each.token_ids for each in speaker.respond_together(prompts))
    assert first == again != second
    assert first == speaker.respond(prompts[0]).token_ids


def test_long_answers_are_fewer_at_a_time(speaker, monkeypatch):
    assert together.rows_within(4096, 168) == 16
    assert together.rows_within(4096, 257) == 8
    assert together.rows_within(4096, 9000) == 1
    sizes, write = [], together.write

    def counted(llm, prompts, *arguments, **options):
        sizes.append(len(prompts))
        return write(llm, prompts, *arguments, **options)

    monkeypatch.setattr(together, "write", counted)
    monkeypatch.setattr("emoguard_llamacpp.speaker.CONTEXT", 512)
    prompts = [Prompt(text, max_tokens=8, temperature=0) for text in TEXTS[:3]]
    answers = speaker.respond_together(prompts)
    assert sizes == [2, 1]
    speaker.respond_together([Prompt("toast " * 240, max_tokens=8), *prompts])
    assert sizes == [2, 1, 1, 2, 1]  # the long one alone, the others as before
    assert [each.prompt_ids for each in answers] == [speaker.prompt_ids(each) for each in prompts]


def test_a_prompt_longer_than_a_pass_is_read_in_parts(speaker):
    (long, short) = (
        Prompt("toast " * count, max_tokens=4, temperature=0) for count in (together.CHUNK + 9, 3)
    )
    assert len(speaker.prompt_ids(long)) > together.CHUNK
    for prompt, answer in zip((long, short), speaker.respond_together([long, short]), strict=True):
        assert answer.prompt_ids == speaker.prompt_ids(prompt)
        assert max(margins(speaker, answer), default=0) < 0.01


def test_the_context_of_the_model_is_not_touched(speaker):
    prompt = Prompt(TEXTS[0], max_tokens=4)
    speaker.respond(prompt)
    held = speaker.model.n_tokens
    speaker.respond_together([prompt, prompt])
    assert speaker.model.n_tokens == held
