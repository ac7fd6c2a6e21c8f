"""Writes the files that EmoGuard keeps: resolved, locked, on disk, and whole at every moment.

A path is resolved through all links once, before the file is opened. New content replaces the old
by a rename, after both it and its folder are on disk. A file that a process adds to over time
belongs to that process until it ends: a `Lock`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from emoguard import regularfile
from emoguard.errors import EmoGuardError
from emoguard.forked import AFTER_FORK, ForkedError, in_child

MOST_ASIDE = 1000
"""Files that are set aside beside one another."""


class HeldError(EmoGuardError):
    """Raised when another process holds the file."""


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return a path resolved through all links; the file itself need not exist.

    Raises:
        OSError: no path can have this name.

    """
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a NUL or half a surrogate pair in it
        raise OSError(errno.EINVAL, f"{error}") from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise unless this process could create a file at `path`, or write the existing one.

    Raises:
        EmoGuardError: the message names the missing folder, or the place that may not be written.

    """
    try:
        target = resolved(path)
    except OSError as error:
        raise EmoGuardError(f"{path!s:.200} cannot be written: {error.strerror}") from error
    folder = target.parent
    if not folder.is_dir():
        raise EmoGuardError(f"{path} cannot be written: there is no folder {folder}: make it")
    if target.exists() and not target.is_file():
        raise EmoGuardError(f"{path} cannot be written: it is no file")
    # Files are replaced and rotated: that takes the right to write into the folder as well.
    for place, mode in ((folder, os.W_OK | os.X_OK), (target, os.W_OK)):
        if place.exists() and not os.access(place, mode):
            raise EmoGuardError(f"{path} cannot be written: no permission to write {place}")


def replace(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replace the file at `path`, or create it, with `data`; text is UTF-8.

    Raises:
        OSError: it cannot be written, or something other than a file is there; the old content is.

    """
    with replacing(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a new file that replaces the one at `path`, unless the block raises.

    Links are followed; the permissions of an old file are kept.

    Raises:
        OSError: it cannot be written, or something other than a file is there; the old content is.

    """
    target = resolved(path)
    mode = _mode(target)
    part = target.with_name(f"{target.name}.part{os.getpid()}-{threading.get_ident()}")
    try:
        # Made exclusively: a link that somebody else put there is not written through.
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield part
        if mode is not None:
            part.chmod(mode)
        sync(part)
        part.replace(target)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise OSError(errno.EBUSY, "it is mounted by itself: mount its folder") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    sync(target.parent)


def create(path: str | os.PathLike[str], data: bytes, mode: int) -> None:
    """Write a new file, whole or not at all; never over an existing one.

    Raises:
        OSError: it cannot be written, or something is there.

    """
    target = resolved(path)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    part = target.with_name(f"{target.name}.part{os.getpid()}-{threading.get_ident()}")
    try:
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        sync(part)
        os.link(part, target)  # unlike a rename it refuses a name that is taken
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    sync(target.parent)


def move(path: Path, name: Path) -> None:
    """Rename a file within its folder, on disk on return; never over another one.

    Raises:
        OSError: it cannot be renamed, or the name is taken.

    """
    if os.path.lexists(name):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name))
    path.rename(name)
    sync(path.parent)


def set_aside(path: Path) -> Path:
    """Rename an unusable file, so that nothing in it is lost; return its new name.

    Raises:
        OSError: it is no regular file (a device stays where it is), it cannot be renamed, or a
            thousand are there already.

    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    for number in range(1, MOST_ASIDE + 1):
        aside = path.with_name(f"{path.name}.aside-{number}")
        if not os.path.lexists(aside):
            move(path, aside)
            return aside
    raise OSError(errno.EEXIST, f"{MOST_ASIDE} files are set aside beside it: remove them")


def sync(place: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on disk.

    Raises:
        OSError: they cannot be brought there.

    """
    if os.name == "nt" and place.is_dir():
        return  # Windows opens no folder
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)


class Lock:
    """The right of this process alone to keep the file at `path`, which is resolved.

    It ends with `release`, with the object and with the process, however that dies: the system ties
    it to the open file `path.lock`. A forked child does not have it, and does not block others once
    its parent is dead. POSIX only.

    Raises:
        HeldError: it is held already, in this process or another one. OSError: the file `path.lock`
        cannot be opened or locked.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = os.getpid()
        place = f"{path}.lock"
        handle = _locked(place)
        while handle is None:
            handle = _locked(place)
        self._give_back = weakref.finalize(self, _give_back, handle, place, self._owner)
        in_child(self.release)  # its copy of the open file would outlive this process

    @property
    def is_mine(self) -> bool:
        """Return whether this process took it, not its parent."""
        return os.getpid() == self._owner

    def check(self) -> None:
        """Raise unless this process took it.

        Raises:
            ForkedError: its parent did.

        """
        if not self.is_mine:
            raise ForkedError(f"{self.path}: {AFTER_FORK}")

    def release(self) -> None:
        """Release it. Idempotent."""
        self._give_back()


def _locked(place: str) -> int | None:
    """Open and lock a file; None if its last holder deleted it meanwhile."""
    handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        regularfile.check(handle)
        _lock(handle, place)
        if _is_there(handle, place):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _lock(handle: int, place: str) -> None:
    import fcntl  # noqa: PLC0415  (only where something is locked: Windows has none)

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 200, 0).decode("ascii", "replace").strip()
        raise HeldError(f"{place.removesuffix('.lock')} is kept by {_named(holder)}") from error
    # Named in the error of a refused process: a disk without room for it has room for the lock.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{_self()}\n".encode("ascii", "replace"), 0)


def _is_there(handle: int, place: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), Path(place).stat())
    except FileNotFoundError:
        return False


def _give_back(handle: int, place: str, owner: int) -> None:
    """Unlock by closing: in a child of the owner this releases only the child's copy."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            Path(place).unlink()
    os.close(handle)


def _self() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _named(holder: str) -> str:
    if holder == _self():
        return "another guard or sink of this process: close it first, or give each its own file"
    return f"another process ({holder or 'unknown'}): give each its own file"


def _mode(target: Path) -> int | None:
    """Return the permissions of the existing file, None without one.

    Raises:
        OSError: it is not a regular file.

    """
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"wanted a file, got {regularfile.kind(status.st_mode)}")
    return stat.S_IMODE(status.st_mode)
