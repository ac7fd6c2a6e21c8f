"""Extraction: the same numbers as text by text, whatever stops it on the way, in either runtime."""

from __future__ import annotations

import dataclasses
import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import emoguard_llamacpp
import emoguard_transformers
import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.cli.reading import readable
from emoguard.fit.corpora import Text
from emoguard.fit.extraction import Portion, extract, extract_embedded, pool, skipped_tokens
from emoguard.fit.store import rows_done
from emoguard.probe import pooling
from emoguard.testing import FakeResiduals
from tests.contract import hf_models
from tests.support import tiny_gguf

ROOT = Path(__file__).parents[3]
WORDS = ["toast", "is", "heat", "on", "a", "train", "and", "the", "hen", "eats", "rain"]


def some_texts(count, seed=0, longest=60):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, longest))) for _ in range(count)]


class Bytes:
    """A tokenizer of a tiny Transformers model: BOS and one token per letter."""

    chat_template = None

    def __call__(self, text, *, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [3 + ord(c) % 250 for c in text]}


def hf_door(architecture, seed=0):
    return emoguard_transformers.open_residuals(hf_models.build(architecture, seed), Bytes())


def llama_door(folder, architecture, backend="auto"):
    path = tiny_gguf.write(folder / f"{architecture}.gguf", architecture)
    return emoguard_llamacpp.open_residuals(tiny_gguf.load(path), backend)


def text_by_text(door, texts, skip):
    """Return the means as the door gives them one text at a time, without any batch."""
    means = []
    for text in texts:
        ids = door.tokenize(text)
        residuals = door.residuals(ids, range(door.identity.layers - 1))
        means.append(residuals[:, max(1, min(skip, len(ids) // 2)) :].mean(axis=1))
    return np.array(means)


def assert_close(rows, wanted):
    """Each mean is off by at most a thousandth of its own length."""
    error = np.linalg.norm(rows - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    assert error.max() < 1e-3, f"off by {error.max():.2g}"


@pytest.mark.parametrize("architecture", hf_models.ARCHITECTURES)
def test_transformers_batches_give_what_each_text_gives_alone(tmp_path, architecture):
    door, texts = hf_door(architecture), some_texts(20, longest=40)
    assert_close(extract(door, texts, tmp_path / "r", skip=20), text_by_text(door, texts, 20))


@pytest.mark.parametrize("backend", ["auto", "callback"])
@pytest.mark.parametrize("architecture", tiny_gguf.ARCHITECTURES)
def test_llamacpp_sequences_give_what_each_text_gives_alone(tmp_path, architecture, backend):
    door, texts = llama_door(tmp_path, architecture, backend), some_texts(20)
    assert_close(extract(door, texts, tmp_path / "r", skip=20), text_by_text(door, texts, 20))


def test_native_and_callback_pool_the_same_numbers(tmp_path):
    texts = some_texts(10)
    native, callback = (
        extract_embedded(llama_door(tmp_path, "llama", backend), texts, tmp_path / backend)
        for backend in ("native", "callback")
    )
    assert np.array_equal(native[0], callback[0])
    assert np.array_equal(native[1], callback[1])


def test_texts_longer_than_a_batch_are_run_in_parts(tmp_path):
    texts = [" ".join(WORDS * 30), "short and sweet", " ".join(WORDS * 8)]
    for name, door in (
        ("llama", llama_door(tmp_path, "llama")),
        ("tap", llama_door(tmp_path, "llama", "callback")),
    ):
        assert len(door.tokenize(texts[0])) > pooling.BATCH
        assert_close(extract(door, texts, tmp_path / name), text_by_text(door, texts, 20))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_embeddings_are_what_block_0_receives(tmp_path, architecture):
    door, texts = hf_door(architecture), some_texts(6)
    _, embeddings = extract_embedded(door, texts, tmp_path / "r")
    model = door._model
    for text, embedding in zip(texts, embeddings, strict=True):
        ids = door.tokenize(text)
        hidden = model(
            input_ids=hf_models.torch.tensor([ids]), output_hidden_states=True
        ).hidden_states[0]
        wanted = hidden[0, skipped_tokens(len(ids), 20) :].mean(dim=0)
        assert np.allclose(embedding, wanted.detach().numpy(), atol=1e-5)


def test_llamacpp_embeddings_are_a_row_of_the_table_per_token(tmp_path):
    door = llama_door(tmp_path, "llama")
    texts = some_texts(4)
    _, embeddings = extract_embedded(door, texts, tmp_path / "r")
    rng = np.random.default_rng(0)  # as tiny_gguf draws it: the table comes first
    table = rng.normal(size=(tiny_gguf.VOCABULARY, 64)) * (2.0 / 8)
    for text, embedding in zip(texts, embeddings, strict=True):
        ids = door.tokenize(text)
        assert np.allclose(embedding, table[ids[skipped_tokens(len(ids), 20) :]].mean(0), atol=1e-5)


def test_padding_on_either_side_of_the_tokenizer_changes_nothing(tmp_path):
    """A door that batched through the tokenizer would pool the padding of left-padded models."""

    class LeftPadding(Bytes):
        padding_side = "left"
        pad_token_id = 0

    texts, model = ["a hen", *some_texts(5)], hf_models.build("llama")
    left = emoguard_transformers.open_residuals(model, LeftPadding())
    right = emoguard_transformers.open_residuals(model, Bytes())
    rows = extract(left, texts, tmp_path / "left")
    assert np.array_equal(rows, extract(right, texts, tmp_path / "right"))
    assert_close(rows[:1], text_by_text(left, texts[:1], 20))


@pytest.mark.parametrize("runtime", ["transformers", "llamacpp"])
def test_the_first_token_is_never_in_a_mean(tmp_path, runtime):
    """BOS is an attention sink of huge norm: even `skip=0` leaves it out, in short texts, too."""
    door = hf_door("llama") if runtime == "transformers" else llama_door(tmp_path, "llama")
    texts = ["ten", "heat on a train"]
    ids = [door.tokenize(text) for text in texts]
    assert [row[0] for row in ids] == [1, 1]
    rows = extract(door, texts, tmp_path / "r", skip=0)
    for row, means in zip(ids, rows, strict=True):
        residuals = door.residuals(row, range(door.identity.layers - 1))
        assert_close(means, residuals[:, 1:].mean(axis=1))
        with_bos = residuals.mean(axis=1)
        assert np.linalg.norm(means - with_bos, axis=1).min() > 1e-2


def test_the_last_block_and_the_final_norm_are_never_read(tmp_path):
    door = hf_door("llama")
    texts = some_texts(3)
    assert extract(door, texts, tmp_path / "r").shape == (3, 5, 48)
    out = door._model(
        input_ids=hf_models.torch.tensor([door.tokenize(texts[0])]), output_hidden_states=True
    )
    wanted = out.hidden_states[5][0, 20:].mean(dim=0).detach().numpy()
    assert np.allclose(extract(door, texts, tmp_path / "r")[0, 4], wanted, atol=1e-4)


def test_no_logits_are_computed(tmp_path, monkeypatch):
    door = hf_door("llama")
    monkeypatch.setattr(door._model.lm_head, "forward", None)
    extract(door, some_texts(3), tmp_path / "r")


def test_hooks_are_gone_afterwards_even_when_a_batch_fails(tmp_path):
    door = hf_door("llama")
    texts = some_texts(3)
    door.tokenize = lambda text, *, special=True: [1, 300, 5, 6]  # not in the vocabulary
    with pytest.raises(IndexError):
        extract(door, texts, tmp_path / "r")
    assert not any(module._forward_hooks for module in door._model.modules())
    assert not any(module._forward_pre_hooks for module in door._model.modules())


class Counting(FakeResiduals):
    """Counts the texts it runs, and fails when told to."""

    def __init__(self, stop_after=10**9):
        super().__init__()
        self.runs, self.stop_after = 0, stop_after

    def residuals(self, token_ids, layers):
        if self.runs == self.stop_after:
            raise RuntimeError("stopped")
        self.runs += 1
        return super().residuals(token_ids, layers)


def test_a_second_call_runs_nothing_and_an_interrupted_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(pooling, "BATCH", 64)
    texts = some_texts(40)
    whole = extract(FakeResiduals(), texts, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="stopped"):
        extract(Counting(17), texts, tmp_path / "r")
    seen, door = [], Counting()
    assert np.array_equal(extract(door, texts, tmp_path / "r", progress=seen.append), whole)
    assert 23 <= door.runs < 35
    assert seen == sorted(seen)
    assert 0 < seen[0] <= 17
    assert seen[-1] == 40
    assert np.array_equal(extract(Counting(0), texts, tmp_path / "r"), whole)


CHILD = """
import sys, os, signal
from tests.emoguard.fit import test_extraction as t
from emoguard.fit.extraction import extract
texts = t.some_texts(60)
def progress(done):
    if done > 25:
        os.kill(os.getpid(), signal.SIGKILL)
extract(t.hf_door("llama"), texts, sys.argv[1], progress=progress)
"""


def test_a_killed_process_resumes_and_gives_the_same_bits(tmp_path):
    folder = tmp_path / "killed"
    child = subprocess.run([sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    seen, texts = [], some_texts(60)
    rows = extract(hf_door("llama"), texts, folder, progress=seen.append)
    assert 25 < seen[0] < 60, "nothing of the killed process was kept"
    assert np.array_equal(rows, extract(hf_door("llama"), texts, tmp_path / "whole"))


def test_every_moment_of_being_killed_is_survived(tmp_path, monkeypatch):
    """Cut every file at every stage of the first call: the next call gives the right numbers."""
    texts = some_texts(4)
    whole = extract(FakeResiduals(), texts, tmp_path / "whole")
    for stage in range(3):
        folder = tmp_path / str(stage)
        folder.mkdir()
        (folder / "rows.npy").write_bytes((tmp_path / "whole" / "rows.npy").read_bytes()[:100])
        if stage:
            (folder / "done.bin").write_bytes(b"\1\1\1\1")
        if stage == 2:
            (folder / "bound.json.part1-1").write_bytes(b"{")
        assert np.array_equal(extract(FakeResiduals(), texts, folder), whole)


class Overflowing(FakeResiduals):
    """A model whose residuals overflow at one block."""

    def residuals(self, token_ids, layers):
        rows = super().residuals(token_ids, layers)
        rows[list(layers).index(2)] = np.inf
        return rows


def test_residuals_that_overflow_are_refused_and_not_kept(tmp_path):
    with pytest.raises(EmoGuardError, match=r"NaN or infinite: open the model in another dtype"):
        extract(Overflowing(), some_texts(3), tmp_path)
    assert rows_done(tmp_path) == 0


def test_a_store_of_other_texts_another_model_or_another_pooling_is_refused(tmp_path):
    texts, folder = some_texts(4), tmp_path / "r"
    before = extract(hf_door("llama"), texts, folder).copy()
    for door, other, skip in (
        (hf_door("llama", seed=1), texts, 20),
        (hf_door("llama"), texts[::-1], 20),
        (hf_door("llama"), ["".join(texts[:2]), *texts[2:]], 20),
        (hf_door("llama"), texts, 10),
    ):
        with pytest.raises(EmoGuardError, match="another model, of other texts, or pooled"):
            extract(door, other, folder, skip=skip)
    assert np.array_equal(extract(hf_door("llama"), texts, folder), before)


def test_a_folder_of_something_else_or_a_damaged_one_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(EmoGuardError, match=r"holds letter\.txt and no residuals"):
        extract(FakeResiduals(), some_texts(3), tmp_path)
    folder = tmp_path / "r"
    extract(FakeResiduals(), some_texts(3), folder)
    (folder / "rows.npy").write_bytes((folder / "rows.npy").read_bytes()[:-4])
    with pytest.raises(EmoGuardError, match="damaged"):
        extract(FakeResiduals(), some_texts(3), folder)
    (folder / "rows.npy").unlink()
    with pytest.raises(EmoGuardError, match="cannot be used"):
        extract(FakeResiduals(), some_texts(3), folder)


def test_what_comes_back_is_mapped_and_cannot_be_written(tmp_path):
    rows = extract(FakeResiduals(), some_texts(3), tmp_path / "r")
    assert isinstance(rows, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_a_door_without_batches_has_no_embeddings(tmp_path):
    texts = some_texts(3)
    rows = extract(FakeResiduals(), texts, tmp_path / "r")
    assert_close(rows, text_by_text(FakeResiduals(), texts, 20))
    assert extract_embedded(FakeResiduals(), texts, tmp_path / "r")[1] is None


def test_a_portion_is_read_first_and_the_rest_follows_to_the_last_bit(tmp_path):
    texts = some_texts(9)
    begun = Portion([0, 2, 4, 8], is_all=True)
    first = extract(FakeResiduals(), texts, tmp_path / "r", portion=begun)
    assert len(first) == 4
    assert rows_done(tmp_path / "r") == 4
    whole = dataclasses.replace(begun, is_all=False)
    rest = extract(FakeResiduals(), texts, tmp_path / "r", portion=whole)
    assert np.array_equal(rest[begun.texts], first)
    at_once = extract(FakeResiduals(), texts, tmp_path / "other", portion=whole)
    assert np.array_equal(rest, at_once)


def test_layers_outside_the_model_are_refused_in_both_runtimes(tmp_path):
    for door in (hf_door("llama"), llama_door(tmp_path, "llama")):
        for layers in ([5], [-2]):
            with pytest.raises(EmoGuardError, match="layers must lie in"):
                pool(door, some_texts(1), layers)


def test_batches_hold_every_text_once_and_little_padding():
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(4, 300, 500).tolist(), 5000]
    batches = pooling.batches(lengths)
    assert sorted(n for batch in batches for n in batch) == list(range(501))
    for batch in batches:
        assert len(batch) <= pooling.MOST
        longest = max(lengths[n] for n in batch)
        assert len(batch) == 1 or len(batch) * longest <= pooling.BATCH
    padded = sum(len(batch) * max(lengths[n] for n in batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    assert pooling.batches(lengths) == batches


def test_pooling_leaves_out_leading_tokens_and_never_more_than_half():
    assert skipped_tokens(100, 20) == 20
    assert skipped_tokens(10, 20) == 5
    assert skipped_tokens(100, 0) == 1
    door = FakeResiduals()
    with pytest.raises(EmoGuardError, match="at least 4 tokens"):
        pool(door, ["no"], [2])


def test_a_batch_leaves_a_llama_as_it_was(tmp_path):
    door = llama_door(tmp_path, "llama")
    llm = door._llm
    llm.eval([1, 90, 91])
    before = hashlib.sha256(llm.scores[:3].tobytes()).digest()
    extract(door, some_texts(6), tmp_path / "r")
    assert llm.n_tokens == 3
    assert hashlib.sha256(llm.scores[:3].tobytes()).digest() == before


def test_texts_that_are_too_short_are_left_out_and_the_first_is_named(capsys):
    texts = [Text("joy", "", words, f"c.jsonl:{n}") for n, words in enumerate(SHORT_AND_LONG, 1)]
    door = FakeResiduals()
    long_enough = readable(door, texts)
    assert [text.text for text in long_enough] == [
        w for w in SHORT_AND_LONG if len(door.tokenize(w)) > 3
    ]
    assert 0 < len(long_enough) < len(texts)
    printed = capsys.readouterr().err
    assert "of 4 texts, which have fewer than 4 tokens: the first at c.jsonl:2" in printed
    assert readable(door, long_enough) == long_enough
    assert not capsys.readouterr().err


SHORT_AND_LONG = ["one two three four five", "lol", "a b", "six seven eight nine ten"]
