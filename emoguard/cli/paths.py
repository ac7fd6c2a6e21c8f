"""Checks paths on the command line that are not models: probe files, and files to write."""

from __future__ import annotations

from pathlib import Path

from emoguard import keptfile
from emoguard.errors import EmoGuardError
from emoguard.runtime.openers import openers


def check_is_probe(path: str | Path) -> None:
    """Raise if a path that should be a probe file leads to a model, or to no file.

    Raises:
        EmoGuardError: the message names the kind of file, and the right one to give.

    """
    path = Path(path)
    formats = [opener.FORMAT for opener in openers().values() if opener.opens(path)]
    if not (formats or path.is_dir()):
        return
    kind = f"a model ({formats[0]})" if formats else "a folder"
    raise EmoGuardError(
        f"{path} is {kind}, not a probe: give a probe file (.safetensors), or the name of a "
        "shipped one"
    )


def check_out(option: str, path: str | Path, suffix: str = "") -> None:
    """Raise now if a file could not be written at the end of hours; `option` names it.

    Raises:
        EmoGuardError: the name does not end in `suffix`, its folder does not exist, or one of both
            may not be written.

    """
    path = Path(path)
    if suffix and path.suffix != suffix:
        raise EmoGuardError(f"{option} must end in {suffix}, got {path}")
    if not path.parent.is_dir():
        raise EmoGuardError(f"there is no folder {path.parent} for {option} {path.name}: make it")
    if path.is_dir():
        raise EmoGuardError(f"{option} wants a file, got the folder {path}")
    try:
        keptfile.check_writable(path)
    except EmoGuardError as error:
        raise EmoGuardError(f"{option}: {error}: give another place") from error
