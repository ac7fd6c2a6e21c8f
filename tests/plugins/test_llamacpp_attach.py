"""Attaching to a `llama_cpp.Llama`: what is refused, in words, and what is left as it was."""

from __future__ import annotations

import copy
import dataclasses
import gc
import hashlib
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import emoguard_llamacpp
import llama_cpp
import numpy as np
import pytest
from emoguard_llamacpp import ctypes_llama, support

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.probe import artifact
from emoguard.probe.probe import Probe
from emoguard.testing import make_calibration, make_probe
from tests.support import tiny_gguf

BACKENDS = ("native", "callback")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    return tiny_gguf.write(folder / "llama.gguf", "llama")


@pytest.fixture
def llm(path: Path) -> Any:
    return tiny_gguf.load(path)


@pytest.fixture
def probe(llm: Any) -> Probe:
    return make_probe(emoguard_llamacpp.open_residuals(llm), ("happy", "sad"), (1, 2))


def write_lora(path: Path) -> Path:
    """Write a random LoRA adapter for the tiny llama."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    rng = np.random.default_rng(1)
    for block in range(tiny_gguf.BLOCKS):
        for letter, shape in (("a", (4, tiny_gguf.HIDDEN)), ("b", (64, 4))):
            matrix = rng.normal(size=shape).astype(np.float32)
            writer.add_tensor(f"blk.{block}.attn_q.weight.lora_{letter}", matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def complete(llm: Any) -> str:
    llm.reset()
    answer = llm.create_completion("the hat", max_tokens=8, temperature=0.0)
    return str(answer["choices"][0]["text"])


def logits(llm: Any) -> np.ndarray:
    llm.reset()
    llm.eval([1, 90, 91, 92])
    return ctypes_llama.last_logits(llm, llm.ctx)


def refused(llm: Any, probe: Probe, words: str, **options: Any) -> None:
    """Attaching is refused with `words`; the model answers as before and nothing is left on it."""
    attributes, wanted = set(vars(llm)), logits(llm)
    with pytest.raises(EmoGuardError, match=words):
        emoguard.attach(llm, Guard(probe), **options)
    assert set(vars(llm)) == attributes
    assert np.array_equal(logits(llm), wanted)


def test_emoguard_attach_finds_this_plugin(llm: Any, probe: Probe) -> None:
    with emoguard.attach(llm, Guard(probe), backend="callback") as watch:
        complete(llm)
        assert watch.reports[-1].backend == "llama_cpp:callback"
    with emoguard.attach(llm, Guard(probe)) as watch:
        complete(llm)
        assert watch.reports[-1].backend == "llama_cpp:native"


def test_another_identity_is_uncalibrated(llm: Any, probe: Probe) -> None:
    identity = emoguard_llamacpp.open_residuals(llm).identity
    other = dataclasses.replace(identity, weights="0" * 64)
    for calibrated, status in ((identity, "scored"), (other, "uncalibrated")):
        guard = Guard(probe, [make_calibration(probe, calibrated)])
        with emoguard.attach(llm, guard) as watch:
            complete(llm)
            assert watch.reports[-1].status == status


def test_an_unknown_backend_is_refused(llm: Any, probe: Probe) -> None:
    refused(llm, probe, 'backend must be "auto", "native" or "callback"', backend="fast")


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3", "apertus"])
def test_native_is_refused_off_the_list(folder: Path, probe: Probe, architecture: str) -> None:
    llm = tiny_gguf.load(tiny_gguf.write(folder / f"{architecture}.gguf", architecture))
    refused(llm, probe, "not known to be safe", backend="native")
    door = emoguard_llamacpp.open_residuals(llm)
    own = make_probe(door, ("happy",), (1,))
    with emoguard.attach(llm, Guard(own)) as watch:
        complete(llm)
        assert watch.reports[-1].backend == "llama_cpp:callback"


@pytest.mark.parametrize("architecture", ["gemma3n", "deepseek4"])
@pytest.mark.parametrize("backend", ["auto", "native", "callback"])
def test_models_of_several_streams_are_refused_by_name(architecture: str, backend: str) -> None:
    with pytest.raises(EmoGuardError, match=f"{architecture} cannot be read: "):
        support.choose(architecture, backend)


def test_an_architecture_without_named_outputs_is_refused(llm: Any) -> None:
    # Blocks the graph does not have are like blocks it does not name.
    door = emoguard_llamacpp.door.Door(llm, "callback")
    door.identity = dataclasses.replace(door.identity, layers=9)
    with pytest.raises(EmoGuardError, match="does not name l_out-7 for every token"):
        door.residuals([1, 90, 91], [1, 7])


def test_models_that_do_not_generate_are_refused(path: Path, probe: Probe) -> None:
    for options, words in (
        ({"embedding": True}, "got embedding=True"),
        ({"vocab_only": True}, "got vocab_only=True"),
    ):
        try:
            llm = tiny_gguf.load(path, **options)
        except ValueError:
            # llama-cpp-python itself makes no context without weights.
            assert "vocab_only" in options
            continue
        with pytest.raises(EmoGuardError, match=words):
            emoguard.attach(llm, Guard(probe))
        with pytest.raises(EmoGuardError, match=words):
            emoguard_llamacpp.open_residuals(llm)


def test_a_closed_model_is_refused(path: Path, probe: Probe) -> None:
    llm = tiny_gguf.load(path)
    llm.close()
    with pytest.raises(EmoGuardError, match="got one that was closed"):
        emoguard.attach(llm, Guard(probe))


def test_a_draft_model_is_refused(path: Path, probe: Probe) -> None:
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    draft = LlamaPromptLookupDecoding()
    refused(tiny_gguf.load(path, draft_model=draft), probe, "without draft_model")
    llm = tiny_gguf.load(path, logits_all=True)
    with emoguard.attach(llm, Guard(probe)) as watch:
        llm.draft_model = draft
        complete(llm)
        assert watch.reports[-1].status == "skipped"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_probe_of_other_sizes_is_refused(
    folder: Path, llm: Any, probe: Probe, backend: str
) -> None:
    deeper = tiny_gguf.load(tiny_gguf.write(folder / "deep.gguf", "llama", blocks=6))
    refused(deeper, probe, "made for a llama model with 5 layers", backend=backend)


def test_a_context_too_small_for_the_witness_is_refused(path: Path, probe: Probe) -> None:
    llm = tiny_gguf.load(path, n_ctx=16)
    if llm.n_ctx() > len(probe.witness.token_ids):
        witness = dataclasses.replace(
            probe.witness,
            token_ids=np.resize(probe.witness.token_ids, llm.n_ctx() + 1),
            residuals=np.zeros((2, 3, llm.n_ctx(), 64), np.float32),
        )
        probe = dataclasses.replace(probe, witness=witness)
    refused(llm, probe, "load it with a larger n_ctx")


def test_a_probe_of_a_larger_vocabulary_is_refused(llm: Any, probe: Probe) -> None:
    tokens = probe.witness.token_ids.copy()
    tokens[3] = 100_000
    witness = dataclasses.replace(probe.witness, token_ids=tokens)
    refused(llm, dataclasses.replace(probe, witness=witness), "larger vocabulary")


@pytest.mark.parametrize("backend", BACKENDS)
def test_lora_and_its_scale_survive(folder: Path, path: Path, probe: Probe, backend: str) -> None:
    lora = write_lora(folder / f"lora-{backend}.gguf")
    plain = logits(tiny_gguf.load(path))
    llm = tiny_gguf.load(path, lora_path=str(lora), lora_scale=0.3)
    wanted = logits(llm)
    assert not np.array_equal(wanted, plain)
    door = emoguard_llamacpp.open_residuals(llm, backend)
    content = hashlib.sha256(lora.read_bytes()).hexdigest()[:16]
    assert door.identity.adapters == (f"{content}*0.3",)
    own = make_probe(door, ("happy",), (1, 2))
    with emoguard.attach(llm, Guard(own), backend=backend):
        assert np.array_equal(logits(llm), wanted)
    assert np.array_equal(logits(llm), wanted)


def test_a_control_vector_set_by_hand_is_refused_and_kept(llm: Any, probe: Probe) -> None:
    plain, context = logits(llm), llm.ctx
    data = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    pointer = data.ctypes.data_as(llama_cpp.llama_cpp.ctypes.POINTER(llama_cpp.ctypes.c_float))
    assert llama_cpp.llama_set_adapter_cvec(llm.ctx, pointer, data.size, 64, 1, 4) == 0
    assert not np.array_equal(logits(llm), plain)
    refused(llm, probe, "a control vector", backend="callback")
    assert llm.ctx == context


@pytest.mark.parametrize("backend", BACKENDS)
def test_attach_starts_from_an_empty_cache(llm: Any, probe: Probe, backend: str) -> None:
    wanted = complete(llm)
    llm.eval(list(range(90, 120)))
    with emoguard.attach(llm, Guard(probe), backend=backend):
        assert llm.n_tokens == 0
        assert complete(llm) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_and_parameters_survive(llm: Any, probe: Probe, backend: str) -> None:
    llama_cpp.llama_set_n_threads(llm.ctx, 2, 1)
    parameters = bytes(llm.context_params), bytes(llm._ctx.params)
    with emoguard.attach(llm, Guard(probe), backend=backend):
        assert llama_cpp.llama_n_threads(llm.ctx) == 2
        assert (bytes(llm.context_params), bytes(llm._ctx.params)) == parameters
    assert llama_cpp.llama_n_threads(llm.ctx) == 2


def test_an_attribute_of_the_instance_comes_back(llm: Any, probe: Probe) -> None:
    own = llm.generate
    llm.generate = own
    with emoguard.attach(llm, Guard(probe)) as watch:
        assert llm.generate is not own
        complete(llm)
        assert watch.reports
    assert vars(llm)["generate"] is own


@pytest.mark.parametrize("way", BACKENDS)
def test_a_model_that_was_watched_is_freed_when_it_is_dropped(
    path: Path, probe: Probe, way: str
) -> None:
    llm = tiny_gguf.load(path)
    gone = weakref.ref(llm)
    with emoguard.attach(llm, Guard(probe), backend=way):
        llm.create_completion("a", max_tokens=3)
        list(llm.create_completion("a", max_tokens=3, stream=True))
    gc.disable()  # nobody waits for the collector while a model fills the memory
    try:
        del llm
        assert gone() is None
    finally:
        gc.enable()


def test_a_kept_wrapper_is_inert_after_detach(llm: Any, probe: Probe) -> None:
    wanted = complete(llm)
    with emoguard.attach(llm, Guard(probe)) as watch:
        kept = llm.create_completion
    assert kept("the hat", max_tokens=8, temperature=0.0)["choices"][0]["text"] == wanted
    assert not watch.reports


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_model_can_still_be_detached(path: Path, probe: Probe, backend: str) -> None:
    llm = tiny_gguf.load(path)
    watch = emoguard.attach(llm, Guard(probe), backend=backend)
    llm.close()
    watch.detach()
    assert "generate" not in vars(llm)


def test_identity_tells_files_apart_and_not_names(folder: Path, path: Path) -> None:
    def identity(file: Path, **options: Any) -> Any:
        return emoguard_llamacpp.open_residuals(tiny_gguf.load(file, **options)).identity

    here = identity(path)
    copy = folder / "renamed.gguf"
    copy.write_bytes(path.read_bytes())
    other = tiny_gguf.write(folder / "other.gguf", "llama", seed=1)
    lora = write_lora(folder / "lora.gguf")
    assert identity(copy).digest == here.digest
    assert identity(other).digest != here.digest
    assert identity(path, lora_path=str(lora)).digest != here.digest
    assert (here.architecture, here.layers, here.hidden) == ("llama", 5, 64)
    assert here.quantisation == "F32"
    assert here.name == "tiny random llama"
    assert len(here.template) == 64


def test_another_guard_or_option_is_named_and_leaves_nothing(llm: Any, probe: Probe) -> None:
    before, guard = dict(vars(llm)), Guard(probe)
    for call in (emoguard.attach,):
        with pytest.raises(EmoGuardError, match=r'guard: wanted a Guard, got "probe\.safetensors"'):
            call(llm, "probe.safetensors")
    with pytest.raises(EmoGuardError, match="backnd: unknown option for a Llama; did you mean bac"):
        emoguard.attach(llm, guard, backnd="native")
    with pytest.raises(EmoGuardError, match=r"tokenizer: unknown option .* known options: backend"):
        emoguard.attach(llm, guard, tokenizer=None)
    with pytest.raises(EmoGuardError, match='backend must be "auto", "native" or "callback"'):
        emoguard.attach(llm, guard, backend="Native")
    assert vars(llm) == before
    assert type(llm) is llama_cpp.Llama


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_watched_model_can_be_pickled_and_copied_as_before(
    llm: Any, probe: Probe, backend: str
) -> None:
    wanted = llm.create_completion("the hat", max_tokens=4, temperature=0)["choices"]
    with emoguard.attach(llm, Guard(probe), backend=backend) as watch:
        for same in (pickle.loads(pickle.dumps(llm)), copy.deepcopy(llm)):
            assert type(same) is llama_cpp.Llama
            assert same.model_path == llm.model_path
            assert (
                same.create_completion("the hat", max_tokens=4, temperature=0)["choices"] == wanted
            )
            same.close()
        assert not watch.reports, "the watch stays with the original"
        llm.create_completion("the hat", max_tokens=4, temperature=0)
        assert len(watch.reports) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("last", ["llm.create_completion('Hi', max_tokens=2)", "next(stream)"])
def test_a_script_that_ends_without_a_detach_ends_well(path, probe, tmp_path, backend, last):
    artifact.save(tmp_path / "p.safetensors", probe, [])
    script = (
        "import sys, emoguard\n"
        "from tests.support import tiny_gguf\n"
        "llm = tiny_gguf.load(sys.argv[1])\n"
        f"watch = emoguard.attach(llm, emoguard.Guard.load(sys.argv[2]), backend={backend!r})\n"
        "stream = llm.create_completion('Hi', max_tokens=9, stream=True)\n"
        f"{last}\n"
    )
    arguments = [sys.executable, "-c", script, str(path), str(tmp_path / "p.safetensors")]
    subprocess.run(arguments, check=True)
