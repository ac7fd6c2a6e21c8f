"""Paths on the command line: what lies there, and what to give in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from emoguard.errors import EmoGuardError
from emoguard.probe import artifact

Kind = Literal["gguf", "transformers"]

GGUF = b"GGUF"
"""The first bytes of a GGUF file."""


def recognise(path: str | Path) -> Kind:
    """Return what kind of model lies at `path`: a GGUF file or a Transformers folder.

    Raises:
        EmoGuardError: it is neither; the sentence says what it is, and what to give in its place.

    """
    path = Path(path)
    if path.is_dir():
        if (path / "config.json").is_file():
            return "transformers"
        raise EmoGuardError(f"{path} is no Transformers folder: {_missing_from(path)}")
    if not path.exists():
        raise EmoGuardError(f"there is no model at {path}: {_found_elsewhere(path)}")
    if not path.is_file():
        raise EmoGuardError(f"{path} is neither a file nor a folder: give a GGUF file")
    if _starts_as_gguf(path):
        return "gguf"
    raise EmoGuardError(f"{path} is no GGUF file: {_instead_of_file(path)}")


def check_is_probe(path: str | Path) -> None:
    """Refuse a path that leads to a model, or to no file, where a probe file is wanted.

    Raises:
        EmoGuardError: saying what it is, and what to give in its place.

    """
    path = Path(path)
    if path.is_dir():
        kind = "a Transformers model" if (path / "config.json").is_file() else "a folder"
    elif path.is_file() and _starts_as_gguf(path):
        kind = "a GGUF model"
    else:
        return
    raise EmoGuardError(
        f"{path} is {kind}, not a probe: give a probe file (.safetensors), or the name of a "
        "shipped one"
    )


def check_out(option: str, path: str | Path, suffix: str = "") -> None:
    """Refuse a file that could not be written at the end of hours; `option` names it.

    Raises:
        EmoGuardError: it ends otherwise than in `suffix`, or its folder does not exist.

    """
    path = Path(path)
    if suffix and path.suffix != suffix:
        raise EmoGuardError(f"{option} must end in {suffix}, got {path}")
    if not path.parent.is_dir():
        raise EmoGuardError(f"there is no folder {path.parent} for {option} {path.name}: make it")
    if path.is_dir():
        raise EmoGuardError(f"{option} wants a file, got the folder {path}")


def _starts_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF)) == GGUF
    except OSError as error:
        raise EmoGuardError(f"{path} cannot be read: {error.strerror}") from error


def _found_elsewhere(path: Path) -> str:
    """Say what to give in place of a path that leads nowhere; owner/name is one on the Hub."""
    is_pair = len(path.parts) == 2 and not path.is_absolute() and not path.parent.exists()
    if is_pair and path.suffix not in (".gguf", ".safetensors"):
        return f"download it from the Hub first, hf download {path} --local-dir FOLDER"
    return "give a GGUF file or a Transformers folder"


def _missing_from(folder: Path) -> str:
    """Say why a folder is no model, and what to give in its place."""
    if (folder / "adapter_config.json").is_file():
        return "it holds an adapter; merge it into its base model, and give the folder of that"
    found = sorted(folder.glob("*.gguf"))
    # A cache of the Hub keeps a model in models--owner--name/snapshots/commit.
    places = ("*/config.json", "snapshots/*/config.json")
    found += [each.parent for place in places for each in sorted(folder.glob(place))]
    if found:
        return f"it holds no config.json; give {' or '.join(map(str, found[:3]))}"
    return "it holds no config.json; give the folder that save_pretrained wrote, or a GGUF file"


def _instead_of_file(file: Path) -> str:
    """Say what a file is that was given as a model, and what to give in its place."""
    if file.suffix == ".safetensors" and _is_probe(file):
        return "it is a probe; give the model that it was made for"
    if (file.parent / "config.json").is_file():
        return f"it is a part of a Transformers model; give its folder {file.parent}"
    return "give a GGUF file, or a Transformers folder with its config.json"


def _is_probe(file: Path) -> bool:
    try:
        artifact.load(file)
    except EmoGuardError:
        return False
    return True
