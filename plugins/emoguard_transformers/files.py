"""Recognises folders that `save_pretrained` wrote, without Transformers.

Paths are looked at with `os.path`: `Path.is_file` and its like raise where a folder may not be
searched.
"""
# ruff: noqa: PTH110, PTH113

from __future__ import annotations

import os
from pathlib import Path

FORMAT = "a Transformers folder"


def opens(path: Path) -> bool:
    """Return whether a folder with a `config.json` lies at `path`."""
    return os.path.isfile(path / "config.json")


def hint(path: Path) -> str:
    """Return advice on the path to give instead of one that is no model."""
    if not os.path.exists(path):
        return _from_hub(path)
    if os.path.isfile(path):
        whole = os.path.isfile(path.parent / "config.json")
        return f"it is a part of a Transformers model; give its folder {path.parent}" * whole
    if os.path.isfile(path / "adapter_config.json"):
        return "it holds an adapter; merge it into its base model, and give the folder of that"
    # A cache of the Hub keeps a model in models--owner--name/snapshots/commit.
    places = ("*/config.json", "snapshots/*/config.json")
    folders = [each.parent for place in places for each in sorted(path.glob(place))]
    if folders:
        return f"it holds no config.json; give {' or '.join(map(str, folders[:3]))}"
    return "it holds no config.json; give the folder that save_pretrained wrote, or a GGUF file"


def _from_hub(path: Path) -> str:
    """Return how to download owner/name from the Hub, "" for a path of another shape."""
    is_pair = len(path.parts) == 2 and not path.is_absolute()
    is_new = not os.path.exists(path.parent)
    if is_pair and is_new and path.suffix not in (".gguf", ".safetensors"):
        return f"download it from the Hub first, hf download {path} --local-dir FOLDER"
    return ""
