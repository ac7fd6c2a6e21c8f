"""What may stand in a file's place, and how much of it is read."""

import os
import socket
import stat

import pytest

from emoguard import regularfile

BOUND = 2**16


def place(tmp_path, kind):
    """Put something other than a regular file where one is expected."""
    path = tmp_path / "f"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(tmp_path)  # the path of a socket is short
            server.bind("f")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "no folder":
        path = tmp_path / "none" / "f"
    elif kind in ("nul", "surrogate"):
        path = tmp_path / {"nul": "a\0b", "surrogate": "a\ud800"}[kind]
    elif kind != "nothing":
        path.symlink_to(kind)
    return path


@pytest.mark.parametrize(
    "kind",
    ["folder", "pipe", "socket", "loop", "nothing", "no folder", "nul", "surrogate", "/dev/zero",
     "/dev/null", "/dev/tty", "/proc/self/fd"],
)  # fmt: skip
def test_only_regular_files_are_read_and_nothing_waits(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = place(tmp_path, kind)
    handles = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for reader in (lambda: regularfile.read(path, BOUND), lambda: list(regularfile.lines(path))):
        with pytest.raises(OSError, match=r"."):
            reader()
    assert set(os.listdir("/proc/self/fd")) == handles  # noqa: PTH208


def test_a_pipe_with_a_writer_is_not_read(tmp_path):
    path = place(tmp_path, "pipe")
    reader = os.open(path, os.O_RDWR)
    os.write(reader, b"text\n")
    with pytest.raises(OSError, match="got a pipe"):
        regularfile.read(path, BOUND)
    os.close(reader)


def test_a_link_to_a_regular_file_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"a\n")
    path = place(tmp_path, "real")
    assert regularfile.read(path, 2) == b"a\n"
    assert list(regularfile.lines(path)) == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_an_error(tmp_path):
    path = tmp_path / "f"
    path.touch(mode=0)
    with pytest.raises(PermissionError):
        regularfile.read(path, BOUND)
    assert stat.S_IMODE(path.stat().st_mode) == 0


def test_more_bytes_than_the_bound_are_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a" * BOUND)
    assert len(regularfile.read(path, BOUND)) == BOUND
    with path.open("ab") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(OSError, match="65,536 bytes, got more"):
        regularfile.read(path, BOUND)
    with pytest.raises(OSError, match="got more"):
        list(regularfile.lines(path))


def test_a_file_that_grows_while_it_is_read_ends(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a\n" * 1000)
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="got more"):
        sum(file.write(b"a\n" * 4) for _ in regularfile.lines(path))


@pytest.mark.parametrize(
    ("data", "actual"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
        ("a\u2028b\x0bc\x85d\x1ce\rf\n".encode(), ["a\u2028b\x0bc\x85d\x1ce\rf"]),
    ],
)
def test_only_newlines_end_a_line_and_a_byte_order_mark_is_none(tmp_path, data, actual):
    (tmp_path / "f").write_bytes(data)
    assert list(regularfile.lines(tmp_path / "f")) == actual


@pytest.mark.parametrize("data", [b"a\n\xff\n", "é".encode("latin-1"), b"\xed\xa0\x80"])
def test_other_text_than_utf_8_is_refused(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(OSError, match="not UTF-8"):
        list(regularfile.lines(tmp_path / "f"))


def test_lines_are_bounded_in_number_and_length(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"\n" * regularfile.MOST_LINES)
    assert sum(1 for _ in regularfile.lines(path)) == regularfile.MOST_LINES
    path.write_bytes(b"\n" * (regularfile.MOST_LINES + 1))
    with pytest.raises(OSError, match="got more"):
        list(regularfile.lines(path))
    path.write_bytes(b"a" * (regularfile.LONGEST - 1) + b"\nb")
    assert sum(1 for _ in regularfile.lines(path)) == 2
    path.write_bytes(b"a" * (regularfile.LONGEST + 1))
    with pytest.raises(OSError, match="got more"):
        list(regularfile.lines(path))
