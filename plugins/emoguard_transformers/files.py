"""Recognises folders that `save_pretrained` wrote, without Transformers."""

from __future__ import annotations

import os
from pathlib import Path

FORMAT = "a Transformers folder"


def opens(path: Path) -> bool:
    """Return whether a folder with a `config.json` lies at `path`."""
    # Path.is_file raises where a folder may not be searched.
    return os.path.isfile(path / "config.json")  # noqa: PTH113


def hint(path: Path) -> str:
    """Return advice on the path to give instead of one that is no model."""
    if not path.exists():
        return _from_hub(path)
    if path.is_file():
        whole = (path.parent / "config.json").is_file()
        return f"it is a part of a Transformers model; give its folder {path.parent}" * whole
    if (path / "adapter_config.json").is_file():
        return "it holds an adapter; merge it into its base model, and give the folder of that"
    # A cache of the Hub keeps a model in models--owner--name/snapshots/commit.
    places = ("*/config.json", "snapshots/*/config.json")
    folders = [each.parent for place in places for each in sorted(path.glob(place))]
    if folders:
        return f"it holds no config.json; give {' or '.join(map(str, folders[:3]))}"
    return "it holds no config.json; give the folder that save_pretrained wrote, or a GGUF file"


def _from_hub(path: Path) -> str:
    """Return how to download owner/name from the Hub, "" for a path of another shape."""
    is_pair = len(path.parts) == 2 and not path.is_absolute() and not path.parent.exists()
    if is_pair and path.suffix not in (".gguf", ".safetensors"):
        return f"download it from the Hub first, hf download {path} --local-dir FOLDER"
    return ""
