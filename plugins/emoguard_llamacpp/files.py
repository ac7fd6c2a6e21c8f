"""Recognises GGUF files, without llama.cpp."""

from __future__ import annotations

from pathlib import Path

FORMAT = "a GGUF file"

MAGIC = b"GGUF"
"""The first bytes of a GGUF file."""


def opens(path: Path) -> bool:
    """Return whether a GGUF file lies at `path`."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def hint(path: Path) -> str:
    """Return the GGUF files in a folder that was given in place of one of them."""
    files = sorted(path.glob("*.gguf"))[:3] if path.is_dir() else []
    return f"give {' or '.join(map(str, files))}" if files else ""
