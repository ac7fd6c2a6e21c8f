import json

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit.store import BOUND, DONE, ROWS, RowStore

SHAPE = (3, 2, 4)


def store(folder, **bound):
    return RowStore(folder, {"model": "m"} | bound, SHAPE)


@pytest.fixture
def folder(tmp_path):
    with store(tmp_path / "rows") as rows:
        rows.write([1], np.arange(8, dtype=np.float32).reshape(1, 2, 4))
    return tmp_path / "rows"


def test_what_was_written_is_there_again(folder):
    with store(folder) as again:
        assert again.done.tolist() == [False, True, False]
        assert again.rows()[1].ravel().tolist() == list(range(8))
        assert np.load(folder / ROWS).shape == SHAPE


def test_rows_of_something_else_are_refused_and_kept(folder):
    before = (folder / ROWS).read_bytes()
    with pytest.raises(EmoGuardError, match="another model"):
        store(folder, model="other")
    assert (folder / ROWS).read_bytes() == before


def saved(**changes):
    """A numpy file of the right size that is not the right array."""

    def change(data):
        array = np.frombuffer(data, np.uint8)[-96:].view("<f4").reshape(SHAPE)
        header = {"descr": "<f4", "fortran_order": False, "shape": SHAPE} | changes
        wanted = len(data) - array.nbytes
        text = str(header).encode()
        head = b"\x93NUMPY\x01\x00" + (wanted - 10).to_bytes(2, "little")
        return (head + text).ljust(wanted - 1)[: wanted - 1] + b"\n" + array.tobytes()

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (ROWS, lambda data: data[:-1]),
        (ROWS, lambda data: data + b"\0"),
        (ROWS, lambda data: b"PK" + data[2:]),
        (ROWS, lambda data: data[:10] + b"(" * 118 + data[128:]),
        (ROWS, saved(shape=(24,))),
        (ROWS, saved(descr="<i4")),
        (ROWS, saved(descr="|O")),
        (ROWS, saved(fortran_order=True)),
        (DONE, lambda data: data[:-1]),
        (DONE, lambda data: data + b"\0"),
        (DONE, lambda data: b"\2" + data[1:]),
        (BOUND, lambda data: b"[" * 100_000),
        (BOUND, lambda data: data[:-1]),
        (BOUND, lambda data: b""),
    ],
)
def test_a_damaged_store_is_refused(folder, name, change):
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(EmoGuardError, match=r"damaged|cannot be used"):
        store(folder)


def test_the_header_that_is_checked_is_the_one_that_numpy_writes(folder):
    assert json.loads((folder / BOUND).read_text()) == {"model": "m", "shape": list(SHAPE)}
    assert np.lib.format.open_memmap(folder / ROWS, "r").shape == SHAPE
