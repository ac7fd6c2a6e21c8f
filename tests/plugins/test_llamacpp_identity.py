"""Which file a `llama_cpp.Llama` is: by what its files hold, at attach and as a response begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emoguard_llamacpp
import numpy as np
import pytest
from emoguard_llamacpp import identity as held

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.records import Report
from emoguard.runtime.watch import Watch
from emoguard.testing import make_calibration, make_probe
from tests.support import tiny_gguf


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("base") / "base.gguf", "llama")


def write_lora(path: Path, seed: int) -> Path:
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    rng = np.random.default_rng(seed)
    for block in range(tiny_gguf.BLOCKS):
        for letter, shape in (("a", (2, tiny_gguf.HIDDEN)), ("b", (64, 2))):
            matrix = 0.1 * rng.normal(size=shape).astype(np.float32)
            writer.add_tensor(f"blk.{block}.attn_q.weight.lora_{letter}", matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def guard_for(llm: Any) -> Guard:
    door = emoguard_llamacpp.open_residuals(llm)
    probe = make_probe(door, ("happy", "sad"), (1, 2))
    return Guard(probe, [make_calibration(probe, door.identity)])


def report(llm: Any, watch: Watch) -> Report:
    llm.create_completion("the hat", max_tokens=3)
    return watch.reports[-1]


def retrained(llm: Any) -> None:
    write_lora(Path(llm.lora_path), 2)


def replaced(llm: Any) -> None:
    path = Path(llm.lora_path)
    stat = path.stat()
    write_lora(path.with_name("new.gguf"), 2).replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rescaled(llm: Any) -> None:
    llm.lora_scale = 0.1


@pytest.mark.parametrize("change", [retrained, replaced, rescaled])
def test_a_change_is_another_file_under_a_watch_and_at_a_fresh_attach(
    base: Path, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    lora = write_lora(tmp_path / "lora.gguf", 1)
    llm = tiny_gguf.load(base, lora_path=str(lora), lora_scale=1.0)
    guard = guard_for(llm)
    with emoguard.attach(llm, guard) as watch:
        before = report(llm, watch)
        change(llm)
        live = report(llm, watch)
    again = tiny_gguf.load(base, lora_path=str(lora), lora_scale=llm.lora_scale)
    for each in (llm, again):
        with emoguard.attach(each, guard) as watch:
            fresh = report(each, watch)
        assert (fresh.status, fresh.identity) == ("uncalibrated", live.identity)
    assert (before.status, live.status) == ("scored", "uncalibrated")
    assert before.identity != live.identity


def test_the_same_adapter_in_another_folder_is_the_same_file(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = write_lora(tmp_path / "lora.gguf", 1)
    guard = guard_for(tiny_gguf.load(base, lora_path=str(lora)))
    (tmp_path / "other").mkdir()
    shutil.copy(lora, tmp_path / "other" / "renamed.gguf")
    monkeypatch.chdir(tmp_path / "other")
    for path, status in (("renamed.gguf", "scored"), (None, "uncalibrated")):
        llm = tiny_gguf.load(base, lora_path=path)
        with emoguard.attach(llm, guard) as watch:
            assert report(llm, watch).status == status


@pytest.mark.parametrize("name", ["blk.1.attn_v.weight", "blk.3.ffn_up.weight", "output.weight"])
def test_a_file_that_differs_in_one_tensor_is_another(
    base: Path, tmp_path: Path, name: str
) -> None:
    from emoguard_llamacpp import ctypes_gguf

    copy = tmp_path / "tuned.gguf"
    data = bytearray(base.read_bytes())
    (tensor,) = (t for t in ctypes_gguf.gguf_tensors(base) if t.name == name)
    values = np.frombuffer(data, np.float32, tensor.size // 4, tensor.start)
    values += 0.001
    copy.write_bytes(data)
    guard = guard_for(tiny_gguf.load(base))
    for path, status in ((base, "scored"), (copy, "uncalibrated")):
        llm = tiny_gguf.load(path)
        with emoguard.attach(llm, guard) as watch:
            assert report(llm, watch).status == status


def test_content_is_read_once_per_change(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = write_lora(tmp_path / "lora.gguf", 1)
    llm = tiny_gguf.load(base, lora_path=str(lora))
    guard = guard_for(llm)
    read: list[Any] = []
    plain = held.identify
    monkeypatch.setattr(held, "identify", lambda llm: read.append(llm) or plain(llm))
    with emoguard.attach(llm, guard) as watch:
        for change, times in ((None, 1), (retrained, 2), (None, 2)):
            if change:
                change(llm)
            report(llm, watch)
            report(llm, watch)
            assert len(read) == times
        watch.recheck()
        assert len(read) == 3


def test_a_missing_file_keeps_its_last_identity(base: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora.gguf", 1)
    llm = tiny_gguf.load(base, lora_path=str(lora))
    with emoguard.attach(llm, guard_for(llm)) as watch:
        first = report(llm, watch)
        lora.unlink()
        assert report(llm, watch).identity == first.identity
        assert watch.recheck() == watch.identity
        write_lora(lora, 2)
        assert report(llm, watch).status == "uncalibrated"


def split(base: Path, folder: Path, sizes: list[int]) -> Path:
    """Write the tensors of `base` as parts of so many tensors each, as gguf-split does."""
    import gguf

    reader = gguf.GGUFReader(str(base))
    tensors = list(reader.tensors)
    sizes = [*sizes, len(tensors) - sum(sizes)]
    for number, size in enumerate(sizes):
        writer = gguf.GGUFWriter(
            str(folder / f"base-{number + 1:05d}-of-{len(sizes):05d}.gguf"), "llama"
        )
        for field in reader.fields.values() if number == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", len(sizes))
        writer.add_int32("split.tensors.count", len(tensors))
        for tensor in tensors[sum(sizes[:number]) :][:size]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return folder / f"base-00001-of-{len(sizes):05d}.gguf"


@pytest.mark.parametrize("sizes", [[0], [7], [0, 5, 1]], ids=str)
def test_a_split_file_is_the_same_file_as_the_whole(
    base: Path, tmp_path: Path, sizes: list[int]
) -> None:
    guard = guard_for(tiny_gguf.load(base))
    llm = tiny_gguf.load(split(base, tmp_path, sizes))
    with emoguard.attach(llm, guard) as watch:
        assert report(llm, watch).status == "scored"
        last = held.model_files(llm)[-1]
        data = bytearray(last.read_bytes())
        data[-500:] = bytes(500)
        last.write_bytes(data)
        assert report(llm, watch).status == "uncalibrated", "each part is looked at"
        last.unlink()
        assert report(llm, watch).status == "uncalibrated"
    with pytest.raises(EmoGuardError, match=r"is split into . parts, and not all are beside it"):
        emoguard.attach(llm, guard)
