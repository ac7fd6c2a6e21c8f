"""Fetches a model named as on the Hugging Face hub, OWNER/NAME, into the hub's own cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from emoguard.cli.screen import say
from emoguard.errors import EmoGuardError
from emoguard.runtime.openers import first_line

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Files to fetch of a model: no pickled weights, and none of other frameworks."""


def local(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Return the path of a model, None without one; the callback of an option of `click`.

    An existing path, or a path in an existing folder, is never looked up on the hub.

    Raises:
        EmoGuardError: the name looks like one on the hub, and the hub did not deliver it.

    """
    if value is None:
        return None
    is_path = os.path.lexists(value) or Path(value).parent.is_dir()
    has_suffix = Path(value).suffix[1:].isalpha()  # a file's; those of versions have digits
    if is_path or has_suffix or not HUB_ID.fullmatch(value):
        return value
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise EmoGuardError(
            f"there is no model at {value}, and to ask the Hugging Face hub for one of that name "
            "takes huggingface_hub: install it, or give a path"
        ) from error
    say(f"{value} is no path here: asking the Hugging Face hub for it", err=True)
    try:
        return str(snapshot_download(value, allow_patterns=list(FILES)))
    except (OSError, ValueError, RuntimeError) as error:
        raise EmoGuardError(
            f"there is no model at {value}, and the Hugging Face hub did not give one of that name "
            f"({first_line(error)}): download it where the hub can be reached, and give the folder"
        ) from error
